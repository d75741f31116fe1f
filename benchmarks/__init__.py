"""Numbers that were promised, measured; none of them is a test."""
