"""Audit log -> actions -> sequences, and the bundle contract that training writes and serving reads."""
