"""Sequences -> scores, evidence and verdicts; and the model bundle that training writes and serving reads."""
