"""Alerts: grouping, explanation, queries, feedback, and the stream of changes."""
