"""A new model from what a service has stored: the steps of `kubehabit retrain`, and what is kept of them."""
