"""Holds the commands of `ftfw` and their output.  Importing it does not import the daemon."""
