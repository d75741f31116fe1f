"""The public API: routes, the wire's spelling of things, errors as status codes."""
