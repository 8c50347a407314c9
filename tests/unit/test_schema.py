import socket
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from ftfw.config.config_errors import ConfigError
from ftfw.config.schema import Config, MulticastLink, UnicastLink, load, require_complete
from ftfw.config.value_types import Endpoint, Mark, PortRange
from tests.unit.config_files import LINK, load_text, problems


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
