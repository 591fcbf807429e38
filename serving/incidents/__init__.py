"""Incidents: alerts joined across principals, with their context, links, graph and report."""
