"""Which model is served: loading, following the registry, challengers in shadow, scoring a file."""
