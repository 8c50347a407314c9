"""Commands of `ftfw`, and what they print.  Importing a command must not import the daemon."""
