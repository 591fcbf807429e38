"""Audit events -> actions: a few categorical fields for each request, as columns of codes."""
