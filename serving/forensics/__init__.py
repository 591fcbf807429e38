"""What happened: an append-only store of every audit event, queries on it, and evidence with proof of it."""
