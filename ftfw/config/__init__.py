"""Holds the configuration file: its schema, the types of its values, its error messages and default paths."""
