"""The exception that the benchmark reports to the user."""


class BenchError(Exception):
    """The benchmark cannot go on; the message names the cause and, where one is known, the remedy."""
