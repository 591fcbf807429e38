"""Audit log -> actions -> sequences."""
