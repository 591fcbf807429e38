"""What `kubehabit backup` copies of a service, and how `kubehabit restore` puts it back: docs/operations.md."""
