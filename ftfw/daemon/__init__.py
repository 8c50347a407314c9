"""The running daemon, on trio: the only package in which all others meet."""
