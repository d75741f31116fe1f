"""Writes `docs/api.md` and `docs/api.ja.md` from the wire's schema: `python -m scripts.api_docs`."""
