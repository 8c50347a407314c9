"""Holds the words of keepalived's VRRP notifications.  Light to import: `ftfw notify` checks its arguments by them."""

from typing import Final

MASTER: Final = "MASTER"
STATES: Final = (MASTER, "BACKUP", "FAULT", "STOP", "DELETED")
TYPES: Final = ("INSTANCE", "GROUP")
