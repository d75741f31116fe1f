"""One module an area of the API; each route parses, calls, wraps."""
