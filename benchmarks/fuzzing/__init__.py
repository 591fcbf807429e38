"""Fuzzing of everything that reads what an attacker may have written: targets, their seeds, and poisoned events."""
