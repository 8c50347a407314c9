"""Holds the commands of `ftfw` and what they print.  Importing it does not import the daemon."""
