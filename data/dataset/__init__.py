"""Logs -> dataset: encoded actions as memory-mapped tables, and the windows cut from them."""
