"""ftfw: fault-tolerant firewall state replication."""

__version__ = "0.1.0"
