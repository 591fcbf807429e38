"""One module for each way in which platforms wrap audit events, and the registry that recognises them."""
