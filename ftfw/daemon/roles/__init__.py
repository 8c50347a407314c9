"""Decides which role a node has, from commands and from keepalived's notifications.  Pure."""
