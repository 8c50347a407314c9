"""Connects nodes by UDP between addresses, IPv4 or IPv6."""

import socket

from ftfw.config.schema import UnicastLink
from ftfw.link.datagram import DatagramLink
from ftfw.link.link_base import socket_address


class Udp(DatagramLink):
    """Sends each frame to every peer."""

    def __init__(self, config: UnicastLink) -> None:
        self._own = socket_address(config.bind, config.port)
        super().__init__(
            name=f"udp {config.bind}",
            port=config.port,
            pinned_to=config.interface,
            version=config.bind.version,
            destinations=[socket_address(peer, config.port) for peer in config.peers],
            mtu=config.mtu,
        )

    def _bind(self, made: socket.socket) -> None:
        made.bind(self._own)
