"""How unusual each principal was over time, and its evidence: kept in a file beside the state, for charts and previews."""
