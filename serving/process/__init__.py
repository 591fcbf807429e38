"""The process: its threads, memory, priorities and identity."""
