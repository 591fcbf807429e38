"""The console: pages for people, rendered by the service itself; see docs/console.md."""
