"""The table of roles, and what keepalived's notifications say about the role.  Pure."""
