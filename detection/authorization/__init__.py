"""What a cluster's RBAC allows at a moment, and whether its audit log agrees with that; no I/O but `files`."""
