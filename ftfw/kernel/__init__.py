"""Reads and writes the kernel's conntrack table; no code outside of this package uses attribute numbers.

Pure parts (no socket, no clock): `uapi` names the kernel's numbers; `attributes` reads and writes attributes;
`validate` checks that they are as the kernel writes them; `flow_entry` defines the form in which flows are held, and
how an UPDATE is laid over a held value; `expectation` does both for expectations; `message_shapes` recognises plain
messages without parsing, and `message_run` handles many of one shape; `event_selector` selects the messages that
concern the peer, with the filter of `flow_filter`; `entry_digest` makes the numbers by which tables are compared;
`create` makes the requests that put flows into a kernel, and `create_bulk` makes many; `decode` makes the typed objects
of `flow_model` for people.

Parts that touch the world: `netlink` has sockets and dumps, `injector` writes this kernel's table, `helpers` finds
the helpers of this kernel.
"""
