"""Findings of `ftfw check` about the host and the configuration, each with its remedy."""
