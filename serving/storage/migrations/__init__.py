"""Migrations of the alert store, run by `serving.storage.database` when the service starts."""
