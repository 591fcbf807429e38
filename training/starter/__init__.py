"""The starter model: trained on what several clusters have in common, for a cluster of which nothing is known yet."""
