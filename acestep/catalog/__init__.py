"""Which models and adapters are published, lie on disk, and can be downloaded."""
