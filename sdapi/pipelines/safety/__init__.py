"""Whether finished pictures may be shown."""
