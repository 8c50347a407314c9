"""The configuration file: its schema, its value types and its error texts."""
