"""A client and a server whose only ways to each other lead through the two nodes of a pair; one way is in use."""

import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kernel.pair import LIMIT_S, Node, run

CLIENT, SERVER = "192.0.2.10", "198.51.100.10"
CLIENT6, SERVER6 = "2001:db8:a::10", "2001:db8:b::10"
VIRTUAL = "198.51.100.1"  # to which the client is translated
VIRTUAL6 = "2001:db8:b::1"
ENDS = {"lan": (CLIENT, CLIENT6), "wan": (SERVER, SERVER6)}
NODES = {"lan": ("192.0.2.2", "2001:db8:a::2"), "wan": ("198.51.100.2", "2001:db8:b::2")}  # the same on both ways

# Nothing here hides an error that this host answers with: no drop of invalid packets, no closed ports.
RULES = """
table inet crossing {
    chain source_nat {
        type nat hook postrouting priority srcnat
        oifname "wan" ip saddr 192.0.2.0/24 snat ip to 198.51.100.1
    }
}
"""
ERRORS = ("TcpOutRsts", "IcmpOutDestUnreachs", "Icmp6OutDestUnreachs")


class End(Node):
    """The client or the server, with an interface for each way."""

    gateways: tuple[str, str]

    def use(self, way: int) -> None:
        """Send by this way from now on: 0 leads through the first node, 1 through the second."""
        for gateway in self.gateways:
            self.exec("ip", "route", "replace", "default", "via", gateway, "dev", f"way{way}", "onlink")

    def socket(self, kind: int, host: str, port: int = 0) -> socket.socket:
        """A bound socket of this host."""
        made = self.inside(lambda: socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind))
        made.settimeout(LIMIT_S)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        return made


@contextmanager
def crossing(nodes: tuple[Node, Node], workdir: Path) -> Iterator[tuple[End, End]]:
    """Lay the cables; both ends use the first way, whose node has the virtual addresses."""
    token = secrets.token_hex(3)
    client, server = (End(name, f"ftfw-{token}-{name}", workdir / name) for name in ("client", "server"))
    try:
        for end in (client, server):
            end.workdir.mkdir()
            run("ip", "netns", "add", end.namespace)
            end.exec("ip", "link", "set", "lo", "up")
        for way, node in enumerate(nodes):
            _prepare(node)
            _join(client, way, node, "lan")
            _join(server, way, node, "wan")
        for end in (client, server):
            end.use(0)
        hold_addresses(nodes[0])
        yield client, server
    finally:
        for end in (client, server):
            run("ip", "netns", "delete", end.namespace, check=False)


def hold_addresses(node: Node) -> None:
    """What keepalived does at a takeover."""
    node.exec("ip", "address", "add", VIRTUAL, "dev", "wan")
    node.exec("ip", "address", "add", VIRTUAL6, "dev", "wan", "nodad")


def release_addresses(node: Node) -> None:
    node.exec("ip", "address", "delete", VIRTUAL, "dev", "wan")
    node.exec("ip", "address", "delete", VIRTUAL6, "dev", "wan")


def errors_sent(nodes: tuple[Node, ...]) -> int:
    """How many RST and ICMP errors these hosts have sent so far."""
    return sum(counter(node, name) for node in nodes for name in ERRORS)


def counter(node: Node, name: str) -> int:
    """One of `nstat`."""
    listed = node.exec("nstat", "-asz", name).stdout.split()
    return int(listed[listed.index(name) + 1])


def _prepare(node: Node) -> None:
    switches = ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"]
    switches += ["net.netfilter.nf_conntrack_tcp_loose=0", "net.ipv4.conf.all.rp_filter=0"]
    switches += ["net.ipv4.conf.default.rp_filter=0", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0"]
    node.exec("sysctl", "-qw", *switches)
    node.workdir.mkdir(exist_ok=True)
    node.nft(RULES)


def _join(end: End, way: int, node: Node, interface: str) -> None:
    """A cable between an end and a node's interface."""
    near, far = NODES[interface], ENDS[interface]
    run(
        *("ip", "link", "add", f"way{way}", "netns", end.namespace, "type", "veth"),
        *("peer", "name", interface, "netns", node.namespace),
    )
    end.gateways = near
    end.exec("sysctl", "-qw", f"net.ipv4.conf.way{way}.rp_filter=0", f"net.ipv6.conf.way{way}.accept_dad=0")
    node.exec("sysctl", "-qw", f"net.ipv6.conf.{interface}.accept_dad=0")
    end.exec("ip", "link", "set", f"way{way}", "up")
    node.exec("ip", "link", "set", interface, "up")
    for own, there in zip(near, far, strict=True):
        node.exec("ip", "address", "add", own, "dev", interface)
        node.exec("ip", "route", "add", there, "dev", interface)
        end.exec("ip", "address", "add", there, "dev", f"way{way}")
