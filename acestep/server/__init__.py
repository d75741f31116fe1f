"""What the server is made of, by its settings."""
