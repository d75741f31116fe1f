"""A REST server that makes music with the ACE-Step 1.5 models."""

__version__ = "0.1.0"
