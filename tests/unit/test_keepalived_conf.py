from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftfw.cli.check.keepalived_conf import Fifo, Instance, Statement, parse, read

CONF = Path(__file__).parents[2] / "conf/keepalived/keepalived.conf"


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("", []),
        ("a b\n\nc", [Statement(("a", "b")), Statement(("c",))]),
        ("a b { # why\n c ! d\n}\ne", [Statement(("a", "b"), [Statement(("c",))]), Statement(("e",))]),
        ("a\n{\n b\n}", [Statement(("a",), [Statement(("b",))])]),
        ("a { b }", [Statement(("a",), [Statement(("b",))])]),
        ('a "b # c" \'d " e\' "f\\"g"', [Statement(("a", "b # c", 'd " e', 'f"g'))]),
        ('a "b\nc', [Statement(("a", "b")), Statement(("c",))]),
        ("@fw1 a b\n@^fw1 c\n@fw1\n", [Statement(("a", "b")), Statement(("c",))]),
        ("a ${B}/c \\\n d", [Statement(("a", "${B}/c")), Statement(("d",))]),
        ("} a\n}", [Statement(("a",))]),
        ("{ a", [Statement((), [Statement(("a",))])]),
    ],
)
def test_statements(text: str, statements: list[Statement]) -> None:
    assert parse(text) == statements


def test_the_file_in_conf() -> None:
    found = read(CONF.read_text())
    (fifo,) = found.fifos
    assert fifo.path == "/run/ftfw/keepalived.fifo"
    assert found.tells_on_reload
    assert found.groups == {"FW": ("LAN", "WAN")}
    assert found.instances == {
        "LAN": Instance(interface="lan", addresses=frozenset({ip_address("192.0.2.1")})),
        "WAN": Instance(interface="wan", addresses=frozenset({ip_address("198.51.100.1")})),
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
    assert read(f"global_defs {{\n{lines}\n}}\n").fifos == [Fifo(path="/f", user=user)]


def test_what_stands_at_another_place_is_not_taken_for_it() -> None:
    elsewhere = read(
        "vrrp_notify_fifo /f\nvirtual_server 192.0.2.1 80 {\n notify_up /x\n}\nglobal_defs {\n notify_fifo /g\n}"
    )
    assert (elsewhere.fifos, elsewhere.has_hook, elsewhere.all_fifos) == ([], False, {"/g"})


@pytest.mark.parametrize("hook", ["notify", "notify_master", "notify_backup", "notify_fault", "notify_stop"])
@pytest.mark.parametrize("of", ["vrrp_instance", "vrrp_sync_group"])
def test_hooks(of: str, hook: str) -> None:
    assert read(f"{of} A {{\n {hook} /etc/keepalived/notify\n}}").has_hook
    assert not read(f"{of} A {{\n #{hook} /etc/keepalived/notify\n {hook}_priority_changes yes\n}}").has_hook


def test_all_virtual_addresses() -> None:
    found = read(
        "vrrp_instance A {\n interface lan\n virtual_ipaddress {\n 192.0.2.1/24 dev lan label lan:1\n nonsense\n }\n"
        " virtual_ipaddress_excluded {\n 2001:db8::1/64\n }\n}\n"
    )
    expected = frozenset({ip_address("192.0.2.1"), ip_address("2001:db8::1")})
    assert found.instances == {"A": Instance(interface="lan", addresses=expected)}


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
    assert read(text).not_followed == told


KEYWORDS = (
    "global_defs vrrp_instance vrrp_sync_group track_file file group interface virtual_ipaddress 192.0.2.1/24 notify"
    " vrrp_notify_fifo script_user include { } \" ' @a $B= \\"
)
WORDS = st.sampled_from([*KEYWORDS.split(" "), "\n"])


@given(st.lists(WORDS | st.text(max_size=3)).map(" ".join) | st.text())
def test_any_text_is_read_somehow(text: str) -> None:
    read(text)


def test_braces_as_deep_as_they_like() -> None:
    assert read("a {\n" * 50_000 + "include x\n").not_followed == ["include x"]
