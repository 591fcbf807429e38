"""A service that is killed, starved and confused for hours, and what must be true of it each time: docs/reliability.md."""
