"""The durable queue: jobs in SQLite, and the runner that feeds them to a worker."""
