"""Who may use the service: tokens, scopes, sessions, TLS, limits and the access log."""
