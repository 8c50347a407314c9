"""What `ftfw check` says, on a real kernel, in a network namespace of its own."""

import json
import os
import socket
import struct
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftfw.cli.check.ruleset import LEGACY
from ftfw.security.key_file import generate

pytestmark = pytest.mark.kernel

EVENTS = "net.netfilter.nf_conntrack_events"
GOOD_SWITCHES = Path(__file__).parents[2] / "conf/sysctl.conf"
GOOD_RULES = """
table inet t {
    chain input {
        type filter hook input priority filter
        ct state invalid drop
    }
    chain forward {
        type filter hook forward priority filter
        ct label 3 accept
    }
}
"""


class Namespace:
    """A network namespace with a configuration that suits it."""

    def __init__(self, directory: Path) -> None:
        self.name = f"ftfw-{uuid.uuid4().hex[:8]}"
        self.config = directory / "ftfw.toml"
        generate(directory / "link.key")
        self.config.write_text(
            f'security.key_files = ["{directory}/link.key"]\n'
            f'control.socket = "{directory}/control.sock"\n'
            '[[link]]\ntransport = "multicast"\ninterface = "sync"\ngroup = "225.0.0.50"\n'
        )

    def run(self, *command: str, stdin: str | None = None, check: bool = True) -> "subprocess.CompletedProcess[str]":
        inside = ["ip", "netns", "exec", self.name, *command]
        return subprocess.run(inside, input=stdin, check=check, capture_output=True, text=True, timeout=60)

    def python(self, code: str, *wrapper: str) -> str:
        return self.run(*wrapper, sys.executable, "-c", code).stdout.strip()

    def check(self, *wrapper: str) -> dict[str, dict[str, str]]:
        """Run `ftfw check` and return the findings by subject."""
        arguments = ("-m", "ftfw", "check", "--json", "--config", str(self.config))
        done = self.run(*wrapper, sys.executable, *arguments, check=False)
        findings = json.loads(done.stdout)
        problems = any(finding["level"] == "problem" for finding in findings)
        assert (done.returncode, done.stderr) == (int(problems), "")
        return {finding["subject"]: finding for finding in findings}

    def make_good(self) -> None:
        self.run("sysctl", "-q", "--load", str(GOOD_SWITCHES))
        self.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        self.run("nft", "-f", "-", stdin=GOOD_RULES)
        self.run("ip", "link", "add", "sync", "type", "veth", "peer", "name", "other")
        self.run("ip", "link", "set", "sync", "up")
        self.run("ip", "link", "set", "other", "up")


@pytest.fixture
def namespace(tmp_path: Path) -> Iterator[Namespace]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    made = Namespace(tmp_path)
    subprocess.run(["ip", "netns", "add", made.name], check=True)
    yield made
    subprocess.run(["ip", "netns", "delete", made.name], check=True)


WITHOUT_NET_ADMIN = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")


def levels(findings: dict[str, dict[str, str]], *subjects: str) -> list[str]:
    return [findings[subject]["level"] for subject in subjects]


def test_a_good_host_has_no_fault(namespace: Namespace) -> None:
    namespace.make_good()
    findings = namespace.check()
    assert {finding["level"] for finding in findings.values()} == {"ok"}, findings


def test_a_bare_host_has_many(namespace: Namespace) -> None:
    findings = namespace.check()
    sysctls = (EVENTS, "net.netfilter.nf_conntrack_tcp_loose", "net.ipv4.ip_forward")
    warned = (*sysctls, "ruleset", "labels", "invalid packets")
    assert levels(findings, *warned) == ["warning"] * len(warned)
    assert findings["link[0]"]["found"] == "no interface sync"
    assert findings["nf_conntrack"]["level"] == "ok"


def test_the_remedies_remedy(namespace: Namespace) -> None:
    """Every switch that is found wrong is right after doing what its finding says."""
    namespace.make_good()
    namespace.run("sysctl", "-qw", f"{EVENTS}=2", "net.netfilter.nf_conntrack_tcp_loose=1")
    namespace.run("ip", "link", "set", "sync", "down")
    wrong = [finding for finding in namespace.check().values() if finding["level"] != "ok"]
    assert {finding["subject"] for finding in wrong} == {
        EVENTS,
        "net.netfilter.nf_conntrack_tcp_loose",
        "link[0]",
    }
    for finding in wrong:
        command = finding["remedy"].split("`")[1]
        namespace.run(*command.split())
    assert {finding["level"] for finding in namespace.check().values()} == {"ok"}


def test_no_carrier_and_no_multicast(namespace: Namespace) -> None:
    namespace.make_good()
    namespace.run("ip", "link", "set", "other", "down")
    assert namespace.check()["link[0]"]["found"] == "sync has no carrier"
    namespace.run("ip", "link", "set", "other", "up")
    namespace.run("ip", "link", "set", "sync", "multicast", "off")
    assert namespace.check()["link[0]"]["found"] == "sync does not support multicast"


def test_without_the_capability(namespace: Namespace) -> None:
    namespace.make_good()
    findings = namespace.check(*WITHOUT_NET_ADMIN)
    assert findings["capabilities"]["level"] == "problem"
    assert "AmbientCapabilities=CAP_NET_ADMIN" in findings["capabilities"]["remedy"]
    assert findings["ruleset"]["found"].startswith("not checked: nft failed: ")


REQUIRE = """
from pathlib import Path
from ftfw.daemon.requirements import RequirementError, ensure_events_mode, require
from ftfw.config.schema import load
try:
    require(load(Path({config!r})))
    print(ensure_events_mode())
except RequirementError as error:
    print(error)
"""


def test_the_daemon_s_requirements(namespace: Namespace) -> None:
    code = REQUIRE.format(config=str(namespace.config))
    namespace.make_good()
    namespace.run("sysctl", "-qw", f"{EVENTS}=2")
    assert namespace.python(code) == "2"
    assert namespace.run("sysctl", "-n", EVENTS).stdout.strip() == "1"
    assert namespace.python(code) == "1"
    assert namespace.python(code, *WITHOUT_NET_ADMIN).startswith("CAP_NET_ADMIN is missing; run ftfw as root")


def test_events_mode_under_a_read_only_proc(namespace: Namespace) -> None:
    """As under systemd's ProtectKernelTunables."""
    namespace.make_good()
    namespace.run("sysctl", "-qw", f"{EVENTS}=2")
    code = REQUIRE.format(config=str(namespace.config)).replace("'", '"')
    shell = f"mount --bind -o ro /proc/sys /proc/sys && exec {sys.executable} -c '{code}'"
    told = namespace.run("unshare", "--mount", "sh", "-c", shell).stdout
    assert told.startswith(f"{EVENTS} is 2 and cannot be set to 1 (Read-only file system); do it before ftfw starts")


HELPER = "from ftfw.kernel import helpers; print(helpers.helper_works({name!r}))"


def test_helpers_are_told_from_what_is_none(namespace: Namespace) -> None:
    """FTP's is in every kernel that this runs on. Asking leaves nothing behind."""
    assert namespace.python(HELPER.format(name="ftp")) == "True"
    unknown = "from ftfw.kernel import helpers; helpers.HELPERS['x'] = 'tcp'; print(helpers.helper_works('x'))"
    assert namespace.python(unknown) == "False"
    assert namespace.run("nft", "list", "ruleset").stdout == ""


def attribute(kind: int, data: bytes, *, nested: bool = False) -> bytes:
    padding = bytes(-len(data) % 4)
    return struct.pack("=HH", 4 + len(data), kind | (0x8000 if nested else 0)) + data + padding


def labelled_entry() -> bytes:
    """A message that makes a UDP entry with a label."""

    def tuple_of(source: str, destination: str, ports: tuple[int, int]) -> bytes:
        addresses = attribute(1, socket.inet_aton(source)) + attribute(2, socket.inet_aton(destination))
        protocol = attribute(1, bytes([socket.IPPROTO_UDP]))
        protocol += attribute(2, struct.pack("!H", ports[0])) + attribute(3, struct.pack("!H", ports[1]))
        return attribute(1, addresses, nested=True) + attribute(2, protocol, nested=True)

    body = struct.pack("=BBH", socket.AF_INET, 0, 0)
    body += attribute(1, tuple_of("192.0.2.1", "198.51.100.1", (1000, 53)), nested=True)
    body += attribute(2, tuple_of("198.51.100.1", "192.0.2.1", (53, 1000)), nested=True)
    body += attribute(3, struct.pack("!I", 0xE)) + attribute(7, struct.pack("!I", 100))
    body += attribute(22, bytes([8]) + bytes(15)) + attribute(23, b"\xff" * 16)
    return struct.pack("=IHHII", 16 + len(body), 0x100, 0x1 | 0x4 | 0x400, 1, 0) + body


INJECT = """
import socket, struct
with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as asking:
    asking.send({entry!r})
    assert asking.recv(4096)[16:20] == bytes(4)
    asking.send(struct.pack("=IHHII4x", 20, 0x101, 0x301, 2, 0))
    print(struct.pack("=HH", 20, 22) + bytes([8]) + bytes(15) in asking.recv(1 << 16))
"""


@pytest.mark.parametrize(
    ("rule", "kept"), [("ct state new accept", False), ("ct label 7 accept", True), ("ct label set 7", True)]
)
def test_labels_are_kept_just_when_the_check_says_so(namespace: Namespace, rule: str, kept: bool) -> None:
    namespace.make_good()
    rules = f"table inet t {{\n chain forward {{\n type filter hook forward priority filter\n {rule}\n }}\n }}\n"
    namespace.run("nft", "-f", "-", stdin=f"flush ruleset\n{rules}")
    assert namespace.python(INJECT.format(entry=labelled_entry())) == str(kept)
    assert namespace.check()["labels"]["level"] == ("ok" if kept else "warning")


@pytest.mark.parametrize(
    ("rule", "level"),
    [
        ("ct state invalid drop", "ok"),
        ("ct state { invalid, untracked } counter drop", "ok"),
        ("ct state vmap { established : accept, related : accept, invalid : drop }", "ok"),
        ("ct state != { established, related } drop", "ok"),
        ("jump other", "ok"),
        ("ct state established accept", "warning"),
        ("ct state invalid reject", "warning"),
    ],
)
def test_nft_s_ways_to_drop_what_is_invalid(namespace: Namespace, rule: str, level: str) -> None:
    namespace.make_good()
    other = "chain other {\n ct state invalid log drop\n }\n"
    chain = f"chain input {{\n type filter hook input priority filter\n {rule}\n }}\n"
    rules = f"table inet t {{\n {other} {chain} }}\n"
    namespace.run("nft", "-f", "-", stdin=f"flush ruleset\n{rules}")
    assert namespace.check()["invalid packets"]["level"] == level


@pytest.mark.skipif(not LEGACY[0].exists(), reason="this kernel has no tables of iptables-legacy")
def test_rules_of_iptables_legacy_are_not_taken_for_none(namespace: Namespace) -> None:
    namespace.make_good()
    namespace.run("nft", "flush", "ruleset")
    assert levels(namespace.check(), "ruleset", "invalid packets") == ["warning", "warning"]
    drop = ("-A", "INPUT", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP")
    namespace.run("iptables-legacy", *drop)
    findings = namespace.check()
    assert levels(findings, "ruleset", "invalid packets", "labels") == ["ok", "ok", "ok"]
    assert findings["invalid packets"]["found"].startswith("not known: the ruleset has rules of iptables")


def test_gre_is_noticed(namespace: Namespace) -> None:
    namespace.make_good()
    assert "net.netfilter.nf_conntrack_acct" not in namespace.check()
    namespace.run("nft", "add rule inet t forward meta l4proto gre accept")
    assert namespace.check()["net.netfilter.nf_conntrack_acct"]["level"] == "warning"
