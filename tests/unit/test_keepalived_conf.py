from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftfw.cli.brace_syntax import Statement
from ftfw.cli.check.keepalived_conf import NotifyFifo, VrrpInstance, extract, parse

CONF = Path(__file__).parents[2] / "conf/keepalived/keepalived.conf"


Shape = list[object]


def shape(block: list[Statement] | None) -> Shape:
    """The words of each statement, each followed by its block if it has one."""
    found: Shape = []
    for statement in block or ():
        found.append(statement.words)
        if statement.block is not None:
            found.append(shape(statement.block))
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("a b\n\nc", [("a", "b"), ("c",)]),
        ("a b { # why\n c ! d\n}\ne", [("a", "b"), [("c",)], ("e",)]),
        ("a\n{\n b\n}", [("a",), [("b",)]]),
        ("a { b }", [("a",), [("b",)]]),
        ('a "b # c" \'d " e\' "f\\"g"', [("a", "b # c", 'd " e', 'f"g')]),
        ('a "b\nc', [("a", "b"), ("c",)]),
        ("@fw1 a b\n@^fw1 c\n@fw1\n", [("a", "b"), ("c",)]),
        ("a ${B}/c \\\n d", [("a", "${B}/c"), ("d",)]),
        ("} a\n}", [("a",)]),
        ("{ a", [(), [("a",)]]),
    ],
)
def test_statements(text: str, expected: Shape) -> None:
    assert shape(parse(text)) == expected


def test_a_statement_has_its_line() -> None:
    first, second = parse("a {\n b\n}\nc")
    assert (first.line, first.block, second.line) == (1, [Statement(("b",), 2)], 4)


def test_the_file_in_conf() -> None:
    found = extract(CONF.read_text())
    (fifo,) = found.fifos
    assert fifo.path == "/run/ftfw/keepalived.fifo"
    assert found.tells_on_reload
    assert found.groups == {"FW": ("LAN", "WAN")}
    assert found.instances == {
        "LAN": VrrpInstance(interface="lan", addresses=frozenset({ip_address("192.0.2.1")})),
        "WAN": VrrpInstance(interface="wan", addresses=frozenset({ip_address("198.51.100.1")})),
    }
    assert (found.tracked, found.untracked, found.has_hook, found.not_followed) == (
        {"/run/ftfw/ready"},
        set(),
        False,
        [],
    )


@pytest.mark.parametrize(
    ("lines", "user"),
    [
        ("vrrp_notify_fifo /f", None),
        ("vrrp_notify_fifo /f ftfw ftfw", "ftfw"),
        ("script_user ftfw\nvrrp_notify_fifo /f", "ftfw"),
        ("vrrp_notify_fifo /f\nscript_user ftfw", None),  # as 2.2.7 takes it
    ],
)
def test_whom_a_fifo_is_made_for(lines: str, user: str | None) -> None:
    assert extract(f"global_defs {{\n{lines}\n}}\n").fifos == [NotifyFifo(path="/f", user=user)]


def test_what_stands_at_another_place_is_not_taken_for_it() -> None:
    elsewhere = extract(
        "vrrp_notify_fifo /f\nvirtual_server 192.0.2.1 80 {\n notify_up /x\n}\nglobal_defs {\n notify_fifo /g\n}"
    )
    assert (elsewhere.fifos, elsewhere.has_hook, elsewhere.all_fifos) == ([], False, {"/g"})


@pytest.mark.parametrize("hook", ["notify", "notify_master", "notify_backup", "notify_fault", "notify_stop"])
@pytest.mark.parametrize("of", ["vrrp_instance", "vrrp_sync_group"])
def test_hooks(of: str, hook: str) -> None:
    assert extract(f"{of} A {{\n {hook} /etc/keepalived/notify\n}}").has_hook
    assert not extract(f"{of} A {{\n #{hook} /etc/keepalived/notify\n {hook}_priority_changes yes\n}}").has_hook


def test_all_virtual_addresses() -> None:
    found = extract(
        "vrrp_instance A {\n interface lan\n virtual_ipaddress {\n 192.0.2.1/24 dev lan label lan:1\n nonsense\n }\n"
        " virtual_ipaddress_excluded {\n 2001:db8::1/64\n }\n}\n"
    )
    expected = frozenset({ip_address("192.0.2.1"), ip_address("2001:db8::1")})
    assert found.instances == {"A": VrrpInstance(interface="lan", addresses=expected)}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("include /etc/keepalived/conf.d/*.conf", ["include /etc/keepalived/conf.d/*.conf"]),
        ("vrrp_instance A {\n includer a.conf\n includea b.conf\n}", ["includer a.conf", "includea b.conf"]),
        ("$IP=192.0.2.1\nvrrp_instance A {\n virtual_ipaddress {\n ${IP}/24\n}\n}", ["parameters"]),
        ("~SEQ(N, 1, 3) $A", ["~SEQ"]),
        ("includes_nothing a\ninclude_check readable", []),
    ],
)
def test_what_is_not_followed_is_told(text: str, told: list[str]) -> None:
    assert extract(text).not_followed == told


KEYWORDS = (
    "global_defs vrrp_instance vrrp_sync_group track_file file group interface virtual_ipaddress 192.0.2.1/24 notify"
    " vrrp_notify_fifo script_user include { } \" ' @a $B= \\"
)
WORDS = st.sampled_from([*KEYWORDS.split(" "), "\n"])


@given(st.lists(WORDS | st.text(max_size=3)).map(" ".join) | st.text())
def test_what_any_text_configures_stands_in_it(text: str) -> None:
    found = extract(text)
    plain = text.replace("\\", "")
    for path in {fifo.path for fifo in found.fifos} | found.all_fifos | found.tracked | found.untracked:
        assert path.replace("\\", "") in plain
    assert found.tracked.isdisjoint(found.untracked)
    assert all(name in plain for name in (name.replace("\\", "") for name in (*found.instances, *found.groups)))


def test_braces_as_deep_as_they_like() -> None:
    assert extract("a {\n" * 50_000 + "include x\n").not_followed == ["include x"]
