"""Scoring many clusters out of Kafka: workers that share the clusters, and the front that publishes what it receives."""
