from typing import Any

import pytest

from ftfw.cli.status_view import print_status, watch_status
from ftfw.control.client import ControlError

COMMIT = {"seconds": 0.25, "created": 3, "updated": 2, "deleted": 1, "failed": {"EEXIST": 4}}
STATUS: dict[str, Any] = {
    "node": "fw1",
    "role": "backup",
    "ready": True,
    "synced": False,
    "conflict": False,
    "flows": 300,
    "expectations": 2,
    "peers": [{"name": "fw2", "role": "active", "last_seen_s": 0.1, "lag_s": 0.0021, "acked": None}],
    "link": {"sent": 1, "received": 20, "bytes_sent": 3, "bytes_received": 4, "dropped": {"forged": 7}},
    "links": [
        {"name": "sync", "up": True, "sent": 1, "received": 10, "dropped": {"forged": 5}},
        {"name": "sync2", "up": False, "sent": 0, "received": 10, "dropped": {"forged": 2}},
    ],
    "kernel": {"events": 9, "overruns": 0, "inject_failed": {"ENOENT": 1}},
    "last_commit": COMMIT,
    "queue_bytes": 12,
}


def test_status_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    print_status(STATUS)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for line in (
        "node fw1",
        "synced no",
        "name role last_seen_s lag_s acked",
        "fw2 active 0.100 0.002 -",
        "sync yes 1 10",
        "forged 7",
        "sync2: forged 2",
        "inject_failed.ENOENT 1",
        "failed.EEXIST 4",
        "queue_bytes 12",
    ):
        assert line in lines


def test_a_bare_status_is_shown_too(capsys: pytest.CaptureFixture[str]) -> None:
    print_status({"node": "[red]fw1", "peers": [], "last_commit": None, "link": {"dropped": {}}})
    assert capsys.readouterr().out.split() == ["node", "[red]fw1"]


def drawn(status: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The status as on a terminal with colours."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    print_status(status)
    return capsys.readouterr().out


GREEN, YELLOW, RED = "\x1b[32m", "\x1b[33m", "\x1b[1;31m"


@pytest.mark.parametrize(
    ("status", "seen"),
    [
        ({"synced": True}, f"{GREEN}yes"),
        ({"synced": False, "why_not_synced": "no active is heard"}, f"{RED}no"),
        ({"why_not_synced": "no active is heard"}, f"{YELLOW}no active is heard"),
        ({"ready": False}, f"{RED}no"),
        ({"conflict": True}, f"{RED}yes"),
        ({"conflict": False}, f"{GREEN}no"),
        ({"links": [{"name": "sync", "up": False}]}, f"{RED}no"),
        ({"peers": [{"name": "fw2", "last_seen_s": 0.1}]}, f"{GREEN}0.100"),
        ({"peers": [{"name": "fw2", "last_seen_s": 2.0}]}, f"{YELLOW}2.000"),
        ({"peers": [{"name": "fw2", "lag_s": 5.0}]}, f"{RED}5.000"),
        ({"link": {"dropped": {"forged": 7}}}, f"{YELLOW}7"),
        ({"kernel": {"overruns": 3}}, f"{YELLOW}3"),
        ({"last_commit": {"failed": {"busy": 4}}}, f"{YELLOW}4"),
        ({"stream": {"repaired": {"stale": 2}}}, f"{YELLOW}2"),
        ({"keepalived": {"fifo": "open"}}, f"{GREEN}open"),
        ({"keepalived": {"fifo": "f: no"}}, f"{RED}f: no"),
        ({"keepalived": {"fifo_writer": False}}, f"{RED}no"),
        ({"keepalived": {"disagreement": "active without 192.0.2.1"}}, f"{RED}active without"),
    ],
)
def test_colours_tell_what_is_good_and_what_is_not(
    status: dict[str, Any], seen: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert seen in drawn(status, monkeypatch, capsys)


def test_what_is_neither_has_no_colour(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    plain = {
        "node": "fw1",
        "flows": 3,
        "synced": None,
        "link": {"sent": 4, "dropped": {"duplicate": 5}},
        "gate": {"shut": True, "dropped": 9},
        "keepalived": {"dropped": {"no_state": 2}},
        "stream": {"behind": 0},
    }
    shown = drawn(plain, monkeypatch, capsys)
    assert [colour for colour in (GREEN, YELLOW, RED) if colour in shown] == []


class EndError(Exception):
    """Ends a watch."""


def watched(answers: list[dict[str, Any] | str]) -> None:
    """Watch while there are answers; a string stands for a daemon that gives none."""
    left = iter(answers)

    def ask() -> dict[str, Any]:
        answer = next(left, None)
        if answer is None:
            raise EndError
        if isinstance(answer, str):
            raise ControlError(answer)
        return answer

    with pytest.raises(EndError):
        watch_status(ask, 2.0, sleep=lambda _: None)


def test_a_watch_goes_on_when_the_daemon_goes_away_and_comes_back(capsys: pytest.CaptureFixture[str]) -> None:
    watched([{"node": "first"}, "no such socket: ftfw is not running", {"node": "second"}])
    lines = [" ".join(line.split()[1:]) for line in capsys.readouterr().out.splitlines() if line]
    assert lines == [
        *("every 2 s; Ctrl-C ends it", "first"),
        *("no such socket: ftfw is not running", "first"),  # what it said last
        *("every 2 s; Ctrl-C ends it", "second"),
    ]


def test_a_watch_on_a_terminal_stays_in_one_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    watched([{"node": "first"}, "no answer", {"node": "second"}])
    out = capsys.readouterr().out
    assert out.startswith("\x1b[?1049h")  # the alternate screen, left at the end
    assert out.rstrip().endswith(("\x1b[?1049l", "\x1b[?25h"))
    assert f"{RED}" in out
    assert out.index("first") < out.index("no answer") < out.index("second")
