"""What every route shares: request bodies, problem details, the documentation page."""
