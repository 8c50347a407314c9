from pathlib import Path
from typing import Any

import pytest

from ftfw.cli.check import link_checks
from ftfw.cli.check.finding import Finding, Level
from ftfw.system.interfaces import Interface
from tests.unit.checked_host import MULTICAST, FakeHost, config_of, findings, the, told


@pytest.fixture(autouse=True)
def fake_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHost:
    return FakeHost().install(monkeypatch, tmp_path)


@pytest.mark.parametrize(
    ("interface", "message"),
    [
        (None, "no interface sync"),
        (Interface(index=2, up=False, running=False, multicast=True, mtu=1500), "sync is down"),
        (Interface(index=2, up=True, running=False, multicast=True, mtu=1500), "sync has no carrier"),
        (Interface(index=2, up=True, running=True, multicast=False, mtu=1500), "sync does not support multicast"),
        (
            Interface(index=2, up=True, running=True, multicast=True, mtu=1280),
            "link[0].mtu is 1400, but the MTU of sync is 1280",
        ),
    ],
)
def test_a_link_that_cannot_work(
    fake_host: FakeHost, tmp_path: Path, interface: Interface | None, message: str
) -> None:
    if interface is None:
        fake_host.interfaces.clear()
    else:
        fake_host.interfaces["sync"] = interface
    config = config_of(tmp_path, f"{MULTICAST}mtu = 1400\n")
    assert told(findings(link_checks.check_links, config=config)) == [("problem", f"link[0]: {message}")]


def test_links_that_work(fake_host: FakeHost, tmp_path: Path) -> None:
    udp = '[[link]]\ntransport = "udp"\nbind = "203.0.113.1"\npeers = ["203.0.113.2"]\n'
    config = config_of(tmp_path, MULTICAST + udp)
    assert told(findings(link_checks.check_links, config=config)) == [
        ("ok", "link[0]: multicast over sync: up"),
        ("ok", "link[1]: udp over any interface: up"),
    ]
    tcp = udp.replace("udp", "tcp") + 'interface = "sync"\nmtu = 16000\n'  # of frames: TCP cuts its packets itself
    assert the(findings(link_checks.check_links, config=config_of(tmp_path, tcp))).level is Level.OK
    fake_host.addresses.clear()
    assert told(findings(link_checks.check_links, config=config))[1] == (
        "problem",
        "link[1]: 203.0.113.1 is not an address of this host",
    )


def test_links_over_which_nobody_is_heard(tmp_path: Path) -> None:
    config = config_of(tmp_path, MULTICAST + MULTICAST.replace("sync", "spare"))

    def found(*links_status: dict[str, Any]) -> list[Finding]:
        return findings(link_checks.check_traffic, config=config, status={"links": list(links_status)})

    assert findings(link_checks.check_traffic) == []
    assert found({"sent": 900, "received": 1}, {"sent": 9, "received": 0}) == []
    alone = the(found({"name": "sync", "sent": 900, "received": 0}))
    assert told([alone]) == [("warning", "link[0]: sync: 900 frames sent, none received")]
    assert "accept port 3780" in alone.remedy
    assert "needs a querier" in alone.remedy
    second = the(found({"sent": 900, "received": 800}, {"name": "spare", "sent": 900, "received": 0}))
    assert (second.level, second.subject) == (Level.PROBLEM, "link[1]")
    strange = the(found({"name": "sync", "sent": 900, "received": 0, "dropped": {"kernel": 7}}))
    assert (strange.level, strange.remedy) == (Level.PROBLEM, "compare security.key_files on both nodes")
    assert "7 datagrams arrived that no key of this node opens" in strange.found
