"""The replication protocol, sans-I/O: messages, time and randomness come in as arguments, messages and events go out.

`messages` the bodies of frames, `active` the side that streams, `backup` the side that holds.
"""
