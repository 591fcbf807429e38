"""The scoring service: champion in, audit events in, alerts in plain words out. Nothing here needs torch."""
