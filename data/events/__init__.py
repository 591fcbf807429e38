"""Audit logs -> audit events: reading files, decoding records, and the formats that wrap them."""
