from pathlib import Path

import pytest

from tests.unit.config_files import LINK, UDP, problems


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("foo = 1", "foo: unknown key; expected node, link, security, "),
        ("secruity = {}", "secruity: unknown key; did you mean security?"),
        ("node.nmae = 'x'", "node.nmae: unknown key; did you mean name?"),
        ("node = 3", "node: found 3; expected a table, headed [node]"),
        ("[link]\ntransport='udp'", "link: found a table; expected tables, each headed [[link]]"),
        ("[[link]]", 'link[0].transport: missing; expected "multicast", "udp", "tcp"'),
        (
            "[[link]]\ntransport = 'sctp'",
            'link[0].transport: found "sctp"; expected "multicast", "udp", "tcp"',
        ),
        (f"{LINK}port = 70000", "link[0].port: found 70000; expected a port, 1 to 65535"),
        (f"{LINK}port = '80'", 'link[0].port: found "80"; expected a port'),
        (f"{LINK}port = true", "link[0].port: found true; expected a port"),
        (
            f"{LINK}{LINK.replace('225.0.0.50', '192.0.2.1')}",
            'link[1].group: found "192.0.2.1"; expected a multicast address',
        ),
        (
            f"{LINK}peers = []",
            "link[0].peers: unknown key; it belongs to another transport; expected port, mtu, tr",
        ),
        (
            LINK.replace('interface = "sync"\n', ""),
            "link[0].interface: missing; expected the name of a network interface",
        ),
        (LINK.replace("sync", "much-too-long-name"), "link[0].interface: found"),
        (UDP, "link[0].peers: missing; expected the other nodes"),
        (f"{UDP}peers = []", "link[0].peers: found []; expected at least one of: "),
        (f'{UDP}peers = ["203.0.113.1"]', "link[0].peers: found ["),
        (f'{UDP}peers = ["2001:db8::1"]', "link[0].peers: found ["),
        (f'{UDP}peers = ["203.0.113.2", "203.0.113.2"]', "link[0].peers: found ["),
        (f'{UDP}peers = ["fw2"]', 'link[0].peers[0]: found "fw2"; expected'),
        (f'{UDP}peers = ["203.0.113.2"]\ngroup = "225.0.0.50"', "link[0].group: unknown key; it"),
        (f"{LINK}{LINK}", "link[1]: found the same place as link[0]; expected another"),
        ("security.key_files = 'x'", 'security.key_files: found "x"; expected absolute'),
        ("security.key_files = ['x']", 'security.key_files[0]: found "x"; expected'),
        ("standby.mode = 'cold'", 'standby.mode: found "cold"; expected "warm" or "hot"'),
        ("node.name = 'a b'", 'node.name: found "a b"; expected 1 to 64 printable'),
        ("replicate.protocols = ['foo']", 'replicate.protocols[0]: found "foo"; expected'),
        ("replicate.protocols = [256]", "replicate.protocols[0]: found 256; expected"),
        ("replicate.protocols = []", "replicate.protocols: found []; expected at least"),
        ("replicate.addresses = ['192.0.2.1/24']", "replicate.addresses[0]: found"),
        ("replicate.addresses = [3]", "replicate.addresses[0]: found 3; expected"),
        ("replicate.ports = ['5-3']", 'replicate.ports[0]: found "5-3"; expected'),
        ("replicate.ports = ['-5']", 'replicate.ports[0]: found "-5"; expected'),
        ("replicate.zones = [65536]", "replicate.zones[0]: found 65536; expected"),
        ("replicate.mark = '0x100/0xff'", 'replicate.mark: found "0x100/0xff"; expected'),
        ("replicate.mark = -1", "replicate.mark: found -1; expected"),
        ("replicate.tcp_states = ['FOO']", 'replicate.tcp_states[0]: found "FOO"; expected'),
        ("replicate.expectations = []", "replicate.expectations: found []; expected"),
        ("replication.compress = 1", "replication.compress: found 1; expected true or false"),
        ("kernel.event_buffer_bytes = 1", "kernel.event_buffer_bytes: found 1; expected bytes"),
        ("keepalived.fifo = 'x'", 'keepalived.fifo: found "x"; expected the absolute path'),
        ("keepalived.addresses = ['192.0.2.1/24']", 'keepalived.addresses[0]: found "192.0.2.1/24"; expected virtual'),
        ("keepalived.track_file = 'x'", 'keepalived.track_file: found "x"; expected the absolute path'),
        ("keepalived.instances = [3]", "keepalived.instances[0]: found 3; expected names"),
        ("control.socket = 'x'", 'control.socket: found "x"; expected an absolute path'),
        (f"control.socket = '/{'x' * 107}'", 'control.socket: found "/xx'),
        ("metrics.listen = '9166'", 'metrics.listen: found "9166"; expected "ADDRESS:PORT"'),
        ("metrics.listen = '::1:9166'", 'metrics.listen: found "::1:9166"; expected'),
        ("node.name = 2026-11-21", 'node.name: found "2026-11-21"; expected'),
    ],
)
def test_a_wrong_value_is_told_with_key_finding_and_remedy(tmp_path: Path, text: str, expected: str) -> None:
    (problem,) = problems(tmp_path, text)
    assert problem.startswith(expected)


def test_every_problem_has_its_line(tmp_path: Path) -> None:
    text = f"{LINK}port = 0\nbond = 1\n[standby]\nmode = 1\n[replicate]\nports = [1, 'x', -1]"
    assert [problem.split(": ")[0] for problem in problems(tmp_path, text)] == [
        "link[0].port",
        "link[0].bond",
        "standby.mode",
        "replicate.ports[1]",
        "replicate.ports[2]",
    ]


def test_what_pythons_own_bounds_keep_from_being_shown(tmp_path: Path) -> None:
    for value in (f"0x{'f' * 5000}", f"[{{{'a.' * 5000}a = 1}}]"):
        (problem,) = problems(tmp_path, f"node.name = {value}")
        assert problem.startswith("node.name: found something too large to show; expected 1 to 64")
