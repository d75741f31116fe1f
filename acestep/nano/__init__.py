"""The bundled nano model: small weights in the published layout, and where they lie."""
