"""Installed ftfw and keepalived in the lab, on hosts that only remember commands and give prepared answers."""

import json
from typing import Any

import pytest
import trio

from ftfw.lab import topology
from ftfw.lab.lab_host import LabError
from vagrant.vm_lab.installed_daemons import CONFIG, KEY, InstalledFtfw, KeepalivedAlone

ADDRESSES = " ".join(f"{address}/24" for addresses in topology.VIRTUAL.values() for address in addresses)


class FakeHost:
    """Remembers the commands that it is told to run, and gives prepared answers."""

    workdir = "/run"
    python = "python3"

    def __init__(self, name: str) -> None:
        self.name = name
        self.files = {CONFIG: '[standby]\nmode = "warm"\n\n[[link]]\ntransport = "udp"\n', KEY: f"key of {name}\n"}
        self.asked: list[tuple[str, ...]] = []
        self.status: dict[str, Any] | None = {"role": "backup", "synced": True}
        self.addresses = ""

    async def run(self, *argv: str, stdin: str = "") -> str:
        await trio.lowlevel.checkpoint()
        self.asked.append(argv)
        match argv:
            case ("cat", path):
                return self.files[path]
            case ("sh", "-c", script) if script.startswith("cat >"):
                self.files[script.removeprefix("cat >")] = stdin
            case ("ftfw", "status", "--json"):
                if self.status is None:
                    raise LabError("it does not answer")
                return json.dumps(self.status)
            case ("ip", "-brief", "address"):
                return f"lan UP {self.addresses} "
            case ("journalctl", *_):
                return "its last words\n"
        return ""

    async def start(self, *argv: str, log: str, talk: bool = False) -> trio.Process:
        raise NotImplementedError

    async def write(self, name: str, content: str, *, mode: int = 0o644) -> str:
        raise NotImplementedError

    async def read(self, name: str) -> str:
        raise NotImplementedError


@pytest.fixture
def hosts() -> tuple[FakeHost, FakeHost]:
    return FakeHost("fw1"), FakeHost("fw2")


async def test_both_get_the_mode_and_one_key(hosts: tuple[FakeHost, FakeHost]) -> None:
    await InstalledFtfw("hot", 1.0).prepare(hosts)
    for host in hosts:
        assert host.files[CONFIG] == '[standby]\nmode = "hot"\n\n[[link]]\ntransport = "udp"\n'
        assert host.files[KEY] == "key of fw1\n"
        assert host.asked[0] == ("systemctl", "disable", "--now", "keepalived", "ftfw")


@pytest.mark.parametrize(
    ("kind", "started"), [(InstalledFtfw, ["ftfw", "keepalived"]), (KeepalivedAlone, ["keepalived"])]
)
async def test_ftfw_is_started_before_keepalived_or_not_at_all(
    hosts: tuple[FakeHost, FakeHost], kind: type[KeepalivedAlone], started: list[str]
) -> None:
    await kind("warm", 1.0).start(hosts[1], "backup")
    assert [argv[-1] for argv in hosts[1].asked if argv[:3] == ("systemctl", "enable", "--now")] == started


async def test_a_takeover_is_done_when_role_and_all_addresses_are_there(
    hosts: tuple[FakeHost, FakeHost],
    autojump_clock: object,  # noqa: ARG001
) -> None:
    _, host = hosts
    done = trio.Event()

    async def adopt() -> None:
        raise AssertionError("the addresses are keepalived's")

    async def take_over() -> None:
        assert await InstalledFtfw("warm", 1.0).take_over(host, adopt) == 0.25
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_over)
        for change in ({"addresses": ADDRESSES}, {"addresses": "", "status": {"role": "active"}}):
            vars(host).update(change)
            await trio.sleep(2)
            assert not done.is_set()
        vars(host).update(addresses=ADDRESSES, status={"role": "active", "last_commit": {"seconds": 0.25}})
        with trio.fail_after(2):
            await done.wait()


async def test_who_does_not_take_over_is_named(
    hosts: tuple[FakeHost, FakeHost],
    autojump_clock: object,  # noqa: ARG001
) -> None:
    with pytest.raises(LabError, match=r"^fw2 does not take over within 60 s$"):
        await KeepalivedAlone("warm", 2.0).promote(hosts[1])


async def test_who_is_not_in_sync_is_named_with_the_reason(
    hosts: tuple[FakeHost, FakeHost],
    autojump_clock: object,  # noqa: ARG001
) -> None:
    active, backup = hosts
    await InstalledFtfw("warm", 1.0).synced(active, backup)
    backup.status = {"role": "backup", "synced": False, "why_not_synced": "no active is heard"}
    with pytest.raises(LabError, match=r"^ftfw on fw2 is not in sync within 30 s: no active is heard\nits last words$"):
        await InstalledFtfw("warm", 1.0).synced(active, backup)
    backup.status = None
    with pytest.raises(LabError, match=r"^ftfw on fw2 does not answer within 30 s$"):
        await InstalledFtfw("warm", 1.0).start(backup, "backup")
