"""The daemon's log: rate limits, and the form that journald reads."""
