"""The networks as plain torch modules; their parameters have the names of the published files."""
