"""Fuzzes what a node reads on its own host: files, keepalived's FIFO and the control socket."""

import base64
import json
import os
import pickle
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ftfw.cli.check import keepalived_conf
from ftfw.cli.migration.conntrackd_syntax import MigrationError
from ftfw.cli.migration.translation import NothingToDoError, translate
from ftfw.config import schema
from ftfw.config.config_errors import ConfigError
from ftfw.control import client, server
from ftfw.control.client import ControlError
from ftfw.control.notification_words import STATES
from ftfw.daemon.roles.keepalived_fifo import LINE_MAX_BYTES, NotificationParser
from ftfw.daemon.roles.role_table import RoleEvent
from ftfw.daemon.roles.vrrp_states import VrrpStates
from ftfw.security import key_file
from ftfw.security.key_file import KEY_LENGTH, KeyFileError

__all__ = ["ConfigError", "ControlError", "KeyFileError", "MigrationError", "NothingToDoError"]

SHIPPED = Path(__file__).parents[2] / "conf"


@contextmanager
def file_of(data: bytes) -> Iterator[Path]:
    """Yield a file with these contents that only its owner may read."""
    descriptor = os.memfd_create("fuzz", os.MFD_CLOEXEC)
    try:
        os.fchmod(descriptor, 0o600)
        os.write(descriptor, data)
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def load_config(data: bytes) -> None:
    """Load any bytes as the configuration file."""
    with file_of(data) as path:
        schema.require_complete(schema.load(path), path)


def find_socket(data: bytes) -> None:
    """Find the control socket in any bytes, as a command does that reads nothing else of the configuration."""
    with file_of(data) as path:
        assert isinstance(client.socket_of(path)[0], Path)


def configs() -> Iterator[bytes]:
    for path in sorted(SHIPPED.rglob("*.toml")):
        yield path.read_bytes()
    yield b"""
[node]
name = "fw1"
[[link]]
transport = "udp"
interface = "sync"
bind = "203.0.113.1"
peers = ["203.0.113.2", "203.0.113.3"]
port = 3780
mtu = 1400
[[link]]
transport = "multicast"
interface = "sync"
group = "ff02::50"
[security]
key_files = ["/etc/ftfw/link.key"]
[standby]
mode = "hot"
[replicate]
protocols = ["tcp", 47]
addresses = ["192.0.2.0/24", "2001:db8::1"]
ports = [22, "1024-2047"]
zones = [0, 7]
mark = "0x10/0xff"
tcp_states = ["ESTABLISHED"]
expectations = ["ftp"]
[replication]
compress = false
[kernel]
event_buffer_bytes = 65536
[keepalived]
fifo = "/run/fifo"
instances = ["FW"]
[takeover]
gate_interfaces = ["lan"]
[control]
socket = "/run/ftfw/control.sock"
[metrics]
listen = "[::1]:9166"
"""
    yield b"link = [1]\nsecurity = 2\nnode = {name = 1979-05-27T07:32:00Z}\n"
    yield b"[[link]]\ntransport = 'tcp'\npeers = [{a.b = 1}, nan, 0xffff]\n[control]\nsocket = ''\n"


def migrate(data: bytes) -> None:
    """Translate any bytes as conntrackd's configuration; the result is a valid configuration of ftfw."""
    text = translate(data.decode("ascii", "replace")).toml
    schema.require_complete(schema.parse(tomllib.loads(text), SHIPPED), SHIPPED)


def conntrackd_configs() -> Iterator[bytes]:
    multicast = "Multicast { IPv4_address 225.0.0.50 Group 3780 IPv4_interface 203.0.113.1 Interface sync }"
    udp = "UDP { IPv6_address 2001:db8::1 IPv6_Destination_Address 2001:db8::2 Port 3781 Interface sync Checksum on }"
    wanted = (
        "Protocol Accept { TCP 132 }\nAddress Ignore { IPv4_address 192.0.2.0/24 }\nState Accept { SYN_SENT for TCP }"
    )
    general = f"HashSize 32768\nLogFile on # so\nUNIX {{ Path /run/x }}\nFilter From Userspace {{\n{wanted}\n}}"
    for mode, links in (
        ("FTFW { ResendQueueSize 1\n}", multicast),
        ("NOTRACK { }", udp),
        ("ALARM { }", multicast + udp),
    ):
        options = "TCPWindowTracking On\nExpectationSync { ftp sip }"
        yield f"Sync {{\nMode {mode}\n{links}\nOptions {{ {options} }}\n}}\nGeneral {{\n{general}\n}}\n".encode()
    yield b"Helper { Type ftp inet tcp { QueueNum 0 } }"


def read_keepalived_conf(data: bytes) -> None:
    """Read any bytes as keepalived's configuration."""
    found = keepalived_conf.extract(data.decode(errors="replace"))
    assert found.tracked.isdisjoint(found.untracked)


def keepalived_confs() -> Iterator[bytes]:
    yield (SHIPPED / "keepalived/keepalived.conf").read_bytes()
    yield b"""
$IP=192.0.2.1
global_defs {
    script_user ftfw
    notify_fifo "/run/a b" root root
}
include conf.d/*
@fw1 vrrp_instance "a b"
{
    notify_master '/x "y"' root
    virtual_ipaddress_excluded { 2001:db8::1/64 dev lan
    }
    virtual_ipaddress { ${IP}/24 \\
    }
}
vrrp_track_file r { file /run/ftfw/ready }
"""


def read_key(data: bytes) -> None:
    """Read any bytes as a key file."""
    with file_of(data) as path:
        assert len(key_file.read(path)) == KEY_LENGTH


def keys() -> Iterator[bytes]:
    line = base64.b64encode(bytes(range(KEY_LENGTH)))
    yield from (line, line + b"\n", line[:-1], b" " + line + b"\r\n", line * 40)


def read_fifo(data: bytes) -> None:
    """Read any bytes from keepalived's FIFO, in pieces as long as the first byte says."""
    size, parser, states = 1 + data[0] if data else 1, NotificationParser(), VrrpStates((), "backup")
    for start in range(1, len(data), size):
        for notification in parser.feed(data[start : start + size]):
            assert notification.state in STATES
            assert states.record(notification) in (RoleEvent.PROMOTE, RoleEvent.DEMOTE)
    assert len(pickle.dumps(parser)) <= LINE_MAX_BYTES + 1000  # it keeps one unfinished line at most
    parser.cut_off()


def notifications() -> Iterator[bytes]:
    yield b'\x20INSTANCE "FW" MASTER 100\nGROUP "a b" BACKUP\nINSTANCE FW FAULT -1\nINSTANCE "FW" MASTER_PRIORITY 3\n'
    yield b"\xff" + b"GROUP " + b"x" * 2000 + b' MASTER\nGROUP "x" STOP\nINSTANCE "FW" DELETED 0\nnonsense\n'


def read_request(data: bytes) -> None:
    """Read any bytes as a request on the control socket."""
    request = server.parse_request(data)
    assert isinstance(request["command"], str)


def requests() -> Iterator[bytes]:
    for request in ({"command": "status"}, {"command": "notify", "state": "MASTER"}, {"a": [1.5, None]}, ["command"]):
        yield json.dumps(request).encode() + b"\n"


def read_reply(data: bytes) -> None:
    """Read any bytes as a line of a daemon's answer."""
    kind, content = client.parse_reply(Path("/run/ftfw/control.sock"), data)
    assert kind in ("progress", "result")
    assert isinstance(content, dict)


def replies() -> Iterator[bytes]:
    for reply in (
        b'{"result": {"role": "active"}}',
        b'{"progress": {"done": 3}}',
        b'{"error": "no"}',
        b'{"result": 3}',
    ):
        yield reply + b"\n"
