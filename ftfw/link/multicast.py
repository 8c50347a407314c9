"""Connects nodes by UDP multicast on one interface, IPv4 or IPv6."""

import socket
import struct

from ftfw.config.schema import MulticastLink
from ftfw.link.datagram import DatagramLink
from ftfw.link.link_base import socket_address


class Multicast(DatagramLink):
    """Sends frames to the group, and receives the frames of other nodes.  Packets stay in the network (TTL 1)."""

    def __init__(self, config: MulticastLink) -> None:
        self._config = config
        super().__init__(
            name=f"multicast {config.group} on {config.interface}",
            port=config.port,
            pinned_to=config.interface,
            version=config.group.version,
            destinations=[socket_address(config.group, config.port)],
            mtu=config.mtu,
        )

    def _bind(self, made: socket.socket) -> None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        group, index = self._config.group.packed, self._index
        if self._family == socket.AF_INET:
            anywhere = bytes(4)  # struct ip_mreqn: its last member is the index of the interface
            made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("=4s4si", group, anywhere, index))
            outwards = struct.pack("=4s4si", anywhere, anywhere, index)
            made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, outwards)
            made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
            made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        else:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + struct.pack("=i", index))
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        made.bind(self._destinations[0])
