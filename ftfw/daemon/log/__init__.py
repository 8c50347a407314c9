"""Limits the rate of the daemon's log, and formats it for the journal."""
