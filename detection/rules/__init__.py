"""Rules that users own: what they match, a CEL expression, and a reason; no I/O but `rule_files`."""
