"""Everything that knows netlink attributes; nothing outside of this package sees an attribute number.

Pure parts (no socket, no clock): `uapi` the kernel's numbers, `attributes` reading and writing attributes, `wellformed`
whether they are as the kernel writes them, `entry` the form in which flows are held and how deltas are laid over them,
`layout` recognising plain messages without walking them, `rewrite` the bodies that put flows into a kernel, `bulk` the
same for many, `expectation` all that for expectations, `select` which messages concern the peer, `decode` typed objects
for people.

Parts that touch the world: `netlink` sockets and dumps, `inject` writing this kernel's table.
"""
