"""Runs the replication protocol, sans-I/O: messages, time and randomness are arguments; messages are returned.

`messages` the bodies of frames, `active` the side that streams, `backup` the side that holds.
"""
