from ftfw.cli.entry_lines import commit_summary, entry_line

COMMIT = {"seconds": 0.25, "created": 3, "updated": 2, "deleted": 1, "failed": {"EEXIST": 4}}
FLOW = {
    "family": "ipv4",
    "protocol": "tcp",
    "zone": None,
    "original": {"src": "192.0.2.1", "dst": "198.51.100.1", "sport": 1025, "dport": 21},
    "reply": {"src": "198.51.100.1", "dst": "203.0.113.9", "sport": 21, "dport": 1025},
    "status": ["confirmed", "seen_reply", "assured"],
    "timeout": 300,
    "tcp": {"state": "ESTABLISHED", "scale_original": 7},
    "mark": 17,
    "helper": "ftp",
    "labels": "00ff",
    "master": None,
    "novelty": {"a": [1, 2]},
}
EXPECTATION = {
    "family": "ipv4",
    "protocol": "tcp",
    "expected": {"src": "192.0.2.1", "dst": "198.51.100.1", "sport": 0, "dport": 4000},
    "mask": {"sport": 0, "dport": 65535},
    "master": {"src": "192.0.2.1"},
    "timeout": 280,
    "flags": ["permanent", "inactive"],
    "helper": "ftp",
}


def test_a_flow_in_one_line() -> None:
    assert entry_line(FLOW) == (
        "ipv4 tcp 300 ESTABLISHED src=192.0.2.1 dst=198.51.100.1 sport=1025 dport=21"
        " src=198.51.100.1 dst=203.0.113.9 sport=21 dport=1025 [ASSURED]"
        " mark=0x11 helper=ftp labels=00ff novelty=(a=1,2) tcp=(scale_original=7)"
    )
    assert entry_line({**FLOW, "status": ["confirmed"]}).count("[UNREPLIED]") == 1


def test_an_expectation_in_one_line() -> None:
    assert entry_line(EXPECTATION) == (
        "ipv4 tcp 280 src=192.0.2.1 dst=198.51.100.1 sport=0 dport=4000"
        " mask=(sport=0 dport=65535) master=(src=192.0.2.1) flags=permanent,inactive helper=ftp"
    )


def test_a_commit_may_count_its_failures_either_way() -> None:
    assert commit_summary({**COMMIT, "failed": 0}) == "3 created, 2 updated, 1 deleted, 0 failed in 0.250 s"
    assert commit_summary({**COMMIT, "failed": {}}) == "3 created, 2 updated, 1 deleted, 0 failed in 0.250 s"
