"""How the models that this repository ships were made. Not part of the server."""
