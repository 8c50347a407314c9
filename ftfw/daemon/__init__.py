"""Runs the daemon, on trio: the only package that uses all others."""
