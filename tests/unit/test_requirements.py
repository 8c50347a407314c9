import errno
from pathlib import Path

import pytest

from ftfw.daemon import requirements
from ftfw.daemon.requirements import RequirementError, ensure_events_mode, require
from tests.unit.checked_host import (
    MULTICAST,
    FakeHost,
    config_of,
)


@pytest.fixture(autouse=True)
def fake_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHost:
    return FakeHost().install(monkeypatch, tmp_path)


def test_requirements(fake_host: FakeHost, tmp_path: Path) -> None:
    config = config_of(tmp_path, MULTICAST)  # an interface that does not exist is a link's trouble
    require(config)
    fake_host.errno = errno.EPERM
    with pytest.raises(RequirementError, match=r"^CAP_NET_ADMIN is missing; run ftfw as root, or with Ambient"):
        require(config)
    fake_host.errno = errno.EPROTONOSUPPORT
    with pytest.raises(RequirementError, match=r"does not answer over netlink \(.*\); `modprobe"):
        require(config)


@pytest.mark.parametrize("old", [0, 1, 2])
def test_events_mode_is_set(fake_host: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: int) -> None:
    fake_host.sysctls["nf_conntrack_events"] = old
    monkeypatch.setattr(requirements, "EVENTS", tmp_path / "nf_conntrack_events")
    assert ensure_events_mode() == old
    assert (tmp_path / "nf_conntrack_events").exists() == (old != 1)


def test_events_mode_that_cannot_be_set(fake_host: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_host.sysctls["nf_conntrack_events"] = 2
    monkeypatch.setattr(requirements, "EVENTS", tmp_path / "none" / "nf_conntrack_events")
    with pytest.raises(RequirementError, match=r"nf_conntrack_events is 2 and cannot be set to 1 \(.*\); do it"):
        ensure_events_mode()
    del fake_host.sysctls["nf_conntrack_events"]
    with pytest.raises(RequirementError, match="makes no conntrack events"):
        ensure_events_mode()
