"""What is kept of one person, and its erasure."""
