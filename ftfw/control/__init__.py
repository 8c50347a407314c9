"""Holds the control socket's client and server, and the vocabulary that commands and daemon share."""
