"""The daemon: one trio nursery that owns links, kernel sockets and the control socket, and changes roles.

`node` the nursery and the commands · `roles` the work of each role, and `changes` from one to the other ·
`streaming` what an active does · `standby` what a backup does · `keepalived` its FIFO, addresses and track_file ·
`takeover` putting the store into the kernel, and cleaning up afterwards · `wire` links, seal and protocol messages ·
`host` what is read of this host · `hangup` what SIGHUP has read again · `supervisor` what systemd is told ·
`scrapes` where Prometheus asks.
"""

from ftfw.daemon.node import StartError, run

__all__ = ["StartError", "run"]
