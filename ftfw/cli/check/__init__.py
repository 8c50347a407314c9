"""Checks the host and the configuration for `ftfw check`; each finding has its remedy."""
