"""Migrations of the alert store, run by `serving.store` when the service starts."""
