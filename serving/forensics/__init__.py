"""What happened: an append-only store of every audit event, questions about it, and evidence with proof of it."""
