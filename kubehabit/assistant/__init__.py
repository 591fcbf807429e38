"""What an assistant may ask of a running service: tools of the Model Context Protocol, and the form of their answers."""
