"""From the alert store to the sinks: the outbox, and the threads that empty it."""
