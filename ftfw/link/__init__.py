"""Carries frames between nodes, without knowing what is in them."""
