"""What a log holds, for people."""
