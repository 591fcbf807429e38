"""The MLflow registry: which version is champion, and its files."""
