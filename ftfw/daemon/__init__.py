"""The daemon: one trio nursery that owns links, kernel sockets and the control socket, and changes roles.

`node` the nursery, the roles and the commands · `streaming` what an active does · `standby` what a backup does ·
`takeover` putting the store into the kernel, and cleaning up afterwards · `wire` links, seal and protocol messages ·
`host` what is read of this host.
"""

from ftfw.daemon.node import StartError, run

__all__ = ["StartError", "run"]
