import socket
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from ftfw.config.schema import Config, ConfigError, MulticastLink, UnicastLink, load, require_complete
from ftfw.config.value_types import Endpoint, Mark, PortRange

LINK = '[[link]]\ntransport = "multicast"\ninterface = "sync"\ngroup = "225.0.0.50"\n'
UDP = '[[link]]\ntransport = "udp"\nbind = "203.0.113.1"\n'


def load_text(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "ftfw.toml"
    file.write_text(text)
    return load(file)


def problems(tmp_path: Path, text: str) -> list[str]:
    """The lines of the error that `text` gives, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, text)
    lines = str(caught.value).splitlines()
    name = f"{tmp_path / 'ftfw.toml'}: "
    assert all(line.startswith(name) for line in lines)
    return [line.removeprefix(name) for line in lines]


def test_every_key_is_read(tmp_path: Path) -> None:
    config = load_text(
        tmp_path,
        """
        node.name = "fw1"
        security.key_files = ["/etc/ftfw/new.key", "/etc/ftfw/old.key"]
        standby.mode = "hot"
        replication.compress = false
        kernel.event_buffer_bytes = 1048576
        keepalived = { fifo = "/run/ftfw/keepalived.fifo", instances = ["FW"] }
        takeover.gate_interfaces = ["lan", "wan"]
        control.socket = "/run/ftfw/other.sock"
        metrics.listen = "[::1]:9166"

        [[link]]
        transport = "multicast"
        interface = "sync"
        group = "ff02::50"
        port = 4000
        mtu = 1400

        [[link]]
        transport = "udp"
        bind = "203.0.113.1"
        peers = ["203.0.113.2", "203.0.113.3"]

        [replicate]
        protocols = ["TCP", 47, "132"]
        addresses = ["192.0.2.0/24", "2001:db8::1"]
        ports = [22, "80", "1024-2047"]
        zones = [0, 7]
        mark = "0x10/0xff"
        tcp_states = ["established", "FIN_WAIT"]
        expectations = ["ftp", "sip"]
        """,
    )
    assert config.node.name == "fw1"
    assert config.security.key_files == (Path("/etc/ftfw/new.key"), Path("/etc/ftfw/old.key"))
    assert config.standby.mode == "hot"
    assert config.replication.compress is False
    assert config.kernel.event_buffer_bytes == 1 << 20
    assert config.keepalived.fifo == Path("/run/ftfw/keepalived.fifo")
    assert config.keepalived.instances == ("FW",)
    assert config.takeover.gate_interfaces == ("lan", "wan")
    assert config.control.socket == Path("/run/ftfw/other.sock")
    assert config.metrics.listen == Endpoint("::1", 9166)
    first, second = config.link
    assert isinstance(first, MulticastLink)
    assert (first.interface, first.group) == ("sync", ip_address("ff02::50"))
    assert (first.port, first.mtu) == (4000, 1400)
    assert isinstance(second, UnicastLink)
    assert (second.bind, second.port) == (ip_address("203.0.113.1"), 3780)
    assert second.peers == (ip_address("203.0.113.2"), ip_address("203.0.113.3"))
    replicate = config.replicate
    assert replicate.protocols == (6, 47, 132)
    assert replicate.addresses == (ip_network("192.0.2.0/24"), ip_network("2001:db8::1/128"))
    assert replicate.ports == (PortRange(22, 22), PortRange(80, 80), PortRange(1024, 2047))
    assert replicate.zones == (0, 7)
    assert replicate.mark == Mark(0x10, 0xFF)
    assert replicate.tcp_states == ("ESTABLISHED", "FIN_WAIT")
    assert replicate.expectations == ("ftp", "sip")


def test_an_empty_file_means_defaults(tmp_path: Path) -> None:
    config = load_text(tmp_path, "")
    assert config.node.name == socket.gethostname()
    assert config.link == ()
    assert config.standby.mode == "warm"
    assert config.replicate.expectations is True
    assert config.replicate.mark is None
    assert config.control.socket == Path("/run/ftfw/control.sock")
    assert config.replication.compress is True
    assert config.metrics.listen is None
    assert config.takeover.gate_interfaces == ()


def test_the_daemon_needs_links_and_keys(tmp_path: Path) -> None:
    config = load_text(tmp_path, "")
    with pytest.raises(ConfigError) as caught:
        require_complete(config, Path("f.toml"))
    assert str(caught.value).splitlines() == [
        "f.toml: link: missing; expected at least one table [[link]]",
        'f.toml: security.key_files: missing; expected absolute paths, such as ["/etc/ftfw/link.key"]'
        " (`ftfw keygen FILE` makes a key)",
    ]
    require_complete(load_text(tmp_path, f'security.key_files = ["/k"]\n{LINK}'), Path("f.toml"))


def test_models_are_frozen(tmp_path: Path) -> None:
    config = load_text(tmp_path, "")
    with pytest.raises(ValidationError):
        config.standby.mode = "hot"


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


def test_mark_defaults_to_the_full_mask(tmp_path: Path) -> None:
    assert load_text(tmp_path, "replicate.mark = 5").replicate.mark == Mark(5, 0xFFFFFFFF)
    assert load_text(tmp_path, "replicate.mark = '0'").replicate.mark == Mark(0, 0xFFFFFFFF)


def test_links_may_share_a_port_on_different_interfaces(tmp_path: Path) -> None:
    assert len(load_text(tmp_path, f"{LINK}{LINK.replace('sync', 'sync2')}").link) == 2


def test_a_syntax_error_has_its_line(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "[node]\nname = fw1\n")
    assert problem.startswith("not TOML: ")
    assert "line 2" in problem


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / "ftfw.toml"
    file.write_bytes(b"# \xe9\n")
    with pytest.raises(ConfigError, match="not UTF-8 at byte 2"):
        load(file)


def test_what_pythons_own_bounds_keep_from_being_read(tmp_path: Path) -> None:
    (digits,) = problems(tmp_path, f"a = {'1' * 5000}")
    assert digits.startswith("not TOML: Exceeds the limit")
    (deep,) = problems(tmp_path, f"a = {'[' * 5000}")
    assert deep.startswith("not TOML: maximum recursion depth exceeded")


def test_what_pythons_own_bounds_keep_from_being_shown(tmp_path: Path) -> None:
    for value in (f"0x{'f' * 5000}", f"[{{{'a.' * 5000}a = 1}}]"):
        (problem,) = problems(tmp_path, f"node.name = {value}")
        assert problem.startswith("node.name: found something too large to show; expected 1 to 64")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x\.toml: no such file; write it, or name another with --config$"):
        load(tmp_path / "x.toml")


def test_an_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)


def test_the_reference_page_tells_every_key() -> None:
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    for name, value in Config():
        models: list[type[BaseModel]] = [MulticastLink, UnicastLink] if name == "link" else [type(value)]
        _, _, section = page.partition(f"`[[{name}]]`\n" if name == "link" else f"## `[{name}]`\n")
        section, _, _ = section.partition("\n## ")
        for model in models:
            for key in model.model_fields:
                assert f"| `{key}` |" in section, f"{name}.{key}"
