"""What `kubehabit doctor` checks of a deployment: one module for the host, for access, for what is stored, and for the model."""
