"""The command line of kubehabit: one file a room, and each command imports the room it needs when it runs."""
