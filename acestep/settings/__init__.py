"""Every `ACESTEP_*` variable."""
