from ftfw.cli.check import daemon_checks
from tests.unit.checked_host import findings, told


def test_what_the_daemon_complains_about() -> None:
    assert findings(daemon_checks.check_daemon) == []
    assert findings(daemon_checks.check_daemon, status={"role": "active", "synced": None, "link": {}}) == []
    status = {
        "role": "backup",
        "synced": False,
        "conflict": True,
        "link": {"dropped": {"forged": 3, "replayed": 0, "duplicate": 900}},
        "links": [{"name": "udp 203.0.113.1", "up": False}, {"name": "tcp 203.0.113.1", "up": True}],
        "kernel": {"overruns": 2},
    }
    assert [finding.subject for finding in findings(daemon_checks.check_daemon, status=status)] == [
        "roles",
        "udp 203.0.113.1",
        "sync",
        "links",
        "events",
    ]
    assert "frames were dropped: 3 forged" in told(findings(daemon_checks.check_daemon, status=status))[3][1]
    status = {
        "role": "active",
        "link": {"dropped": {"duplicate": 7}},
        "kernel": {"dropped": {"malformed": 1}, "inject_failed": {"table_full": 2, "busy": 1}},
        "last_commit": {"otherwise": {"master_missing": 4}},
    }
    assert [line for _, line in told(findings(daemon_checks.check_daemon, status=status))] == [
        "events: messages were dropped: 1 malformed",
        "injection: the kernel refused entries: 2 table_full, 1 busy",
        "injection: the last commit created entries, but not as the store has them: 4 master_missing",
    ]
    assert findings(daemon_checks.check_daemon, status={"role": "active", "last_commit": None}) == []
