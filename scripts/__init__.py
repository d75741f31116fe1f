"""Small programs around the server."""
