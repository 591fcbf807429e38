"""From request bodies to alerts: journal, pipeline, engine, and what they keep across restarts."""
