"""From jobs, songs and models to what clients read."""
