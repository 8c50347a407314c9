"""Announces that an address has moved: gratuitous ARP and unsolicited neighbour advertisements."""

import ipaddress
import socket
import struct
from pathlib import Path

ETHERTYPE_ARP, ETHERTYPE_IPV6 = 0x0806, 0x86DD
ALL_NODES = ipaddress.IPv6Address("ff02::1")
NEIGHBOUR_ADVERTISEMENT, TARGET_LINK_LAYER_ADDRESS = 136, 2
ROUTER_AND_OVERRIDE = 0xA0000000


def announcement_frame(mac: bytes, address: str) -> bytes:
    """Return the Ethernet frame that tells all hosts on the segment that `address` is now at `mac` (6 bytes)."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv4Address):
        return _gratuitous_arp(mac, ip)
    return _unsolicited_advertisement(mac, ip)


def _gratuitous_arp(mac: bytes, ip: ipaddress.IPv4Address) -> bytes:
    everybody = b"\xff" * 6
    ethernet = everybody + mac + struct.pack("!H", ETHERTYPE_ARP)
    request = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
    return ethernet + request + mac + ip.packed + everybody + ip.packed


def _unsolicited_advertisement(mac: bytes, ip: ipaddress.IPv6Address) -> bytes:
    body = ip.packed + bytes((TARGET_LINK_LAYER_ADDRESS, 1)) + mac
    head = struct.pack("!BBHI", NEIGHBOUR_ADVERTISEMENT, 0, 0, ROUTER_AND_OVERRIDE)
    pseudo = ip.packed + ALL_NODES.packed + struct.pack("!II", len(head + body), socket.IPPROTO_ICMPV6)
    checksum = _checksum(pseudo + head + body)
    message = head[:2] + struct.pack("!H", checksum) + head[4:] + body
    ipv6 = struct.pack("!IHBB", 6 << 28, len(message), socket.IPPROTO_ICMPV6, 255)
    ethernet = b"\x33\x33\x00\x00\x00\x01" + mac + struct.pack("!H", ETHERTYPE_IPV6)
    return ethernet + ipv6 + ip.packed + ALL_NODES.packed + message


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def announce(interface: str, addresses: tuple[str, ...]) -> None:
    """Announce the addresses from `interface`. Needs CAP_NET_RAW; raises OSError if the interface cannot be used."""
    mac = bytes.fromhex(Path(f"/sys/class/net/{interface}/address").read_text().strip().replace(":", ""))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as packet:
        packet.bind((interface, 0))
        for address in addresses:
            packet.send(announcement_frame(mac, address))
