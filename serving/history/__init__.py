"""How unusual each principal was over time, and what added up: kept in a file beside the state, for pictures and previews."""
