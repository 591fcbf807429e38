"""Lifecycle: whether a model has drifted, and whether its successor may replace it."""
