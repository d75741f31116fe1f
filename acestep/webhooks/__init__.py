"""Webhooks: what happens to jobs, sent to the addresses that their clients named."""
