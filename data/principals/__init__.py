"""Who acted: identity, peer groups, and who is behind what a controller does."""
