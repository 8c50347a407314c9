"""Wraps interfaces of the operating system thinly, without conntrack and without policy."""
