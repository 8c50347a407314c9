"""The one exception that reaches the person at the terminal."""


class BenchError(Exception):
    """Something the person who runs the benchmark must mend; the message says how."""
