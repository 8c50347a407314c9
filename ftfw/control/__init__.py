"""The control socket: the server in the daemon, and the client, which imports nothing heavy."""
