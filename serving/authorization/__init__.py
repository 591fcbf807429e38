"""The authorization oracle in a running service: what contradicts the cluster's own rules becomes an alert."""
