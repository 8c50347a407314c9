"""Thin wrappers of operating system interfaces, without conntrack and without policy."""
