"""Everything that knows netlink attributes; nothing outside of this package sees an attribute number.

Pure parts (no socket, no clock): `uapi` the kernel's numbers, `attributes` reading and writing attributes, `entry` the
form in which entries are held and how deltas are laid over them, `layout` recognising plain messages without walking
them, `rewrite` the bodies that put entries into a kernel, `bulk` the same for many, `expectation` the same for expectations, `decode` typed
objects for people.

Parts that touch the world: `netlink` sockets, `table` reading this kernel's table, `inject` writing it.
"""
