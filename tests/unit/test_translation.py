import re
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftfw.cli.migration.conntrackd_options import OPTIONS, Severity
from ftfw.cli.migration.conntrackd_syntax import MigrationError
from ftfw.cli.migration.translation import NothingToDoError, translate
from tests.unit.conntrackd_files import EXAMPLES, MULTICAST, UDP, config_of, conntrackd, manual, needs_conntrackd, told


@pytest.mark.parametrize("name", ["Sync.Multicast", "Sync.Multicast.Group", "General.HashSize"])
def test_a_name_with_dots_is_no_option_in_sections(name: str) -> None:
    remarks = translate(f"{name} 5 {{ }}\n{conntrackd()}").remarks
    assert (1, name, Severity.LOST) in {(each.line, each.option, each.severity) for each in remarks}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Sync\n", 'line 1: found "Sync"; expected "{" behind it: Sync is a section'),
        ("Sync { Mode { } }", 'line 1: found "Mode"; expected FTFW, NOTRACK or ALARM behind Mode'),
        ("Sync { Mode QUICK { } }", 'line 1: found "QUICK"; expected FTFW, NOTRACK or ALARM for Mode'),
        (
            conntrackd(mode="DisableExternalCache perhaps"),
            'line 2: found "perhaps"; expected yes or no for DisableExternalCache',
        ),
        (
            conntrackd(links="Multicast { IPv4_address 203.0.113.1 Group 1 Interface sync }"),
            'line 3: found "203.0.113.1"; expected a multicast address for IPv4_address',
        ),
        (
            conntrackd(links="Multicast { IPv4_address ff02::1 Group 1 Interface sync }"),
            'line 3: found "ff02::1"; expected a multicast address of the other family, or another option than'
            " IPv4_address",
        ),
        (
            conntrackd(links="Multicast {\nIPv4_address 225.0.0.50\nGroup 70000 Interface sync }"),
            "line 5: found 70000; expected a port, 1 to 65535, for Group",
        ),
        (
            conntrackd(links="Multicast {\nIPv4_address 225.0.0.50\nGroup x\x1b[1m Interface sync }"),
            'line 5: found "x\\x1b[1m"; expected a number for Group',
        ),
        (
            conntrackd(links="Multicast { IPv4_address 225.0.0.50 Group 1 IPv4_interface 203.0.113.1 }"),
            "line 3: found Multicast without Interface; expected it, since ftfw needs link.interface",
        ),
        (
            conntrackd(links="TCP { IPv4_address 203.0.113.1 Port 1 }"),
            "line 3: found TCP without IPv4_Destination_Address or IPv6_Destination_Address; expected it, since ftfw"
            " needs link.peers",
        ),
        (
            conntrackd(links="UDP { IPv4_address 203.0.113.1 IPv4_Destination_Address 203.0.113.1 Port 1 }"),
            "line 3: found 203.0.113.1 and 203.0.113.1; expected two addresses of one family for UDP",
        ),
        (
            conntrackd(links=f"{MULTICAST}\n{MULTICAST}"),
            "line 4: found the same place as line 3; expected another address or port for Multicast",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, message: str) -> None:
    with pytest.raises(MigrationError) as caught:
        translate(text)
    assert str(caught.value) == message


def test_a_file_that_says_the_least() -> None:
    translation = translate(f"Sync {{ Mode FTFW {{ }} {MULTICAST} }}")
    assert tomllib.loads(translation.toml) == {
        "link": [{"transport": "multicast", "group": "225.0.0.50", "port": 3780, "interface": "sync"}],
        "security": {"key_files": ["/etc/ftfw/link.key"]},
        "standby": {"mode": "warm"},
        "replicate": {"expectations": False},
    }
    assert told(translation) == {
        "security.key_files": Severity.DIFFERS,
        "replicate.expectations": Severity.DIFFERS,
        "Sync.Multicast.Group": Severity.DIFFERS,
        "Sync.Multicast.IPv4_interface": Severity.NOT_NEEDED,
    }


def test_every_line_says_where_it_came_from() -> None:
    translation = translate(conntrackd(mode="DisableExternalCache On", options="ExpectationSync On"))
    assert re.search(r'^group = "225.0.0.50" +# line 3: IPv4_address$', translation.toml, re.MULTILINE)
    assert re.search(r'^mode = "hot" +# line 2: DisableExternalCache$', translation.toml, re.MULTILINE)
    assert re.search(r"^expectations = true +# line 4: ExpectationSync$", translation.toml, re.MULTILINE)


def test_each_section_becomes_a_link() -> None:
    links = [
        "Multicast Default { IPv6_address ff02::50 Group 3780 Interface eth0.100 }",
        UDP,
        "TCP { IPv6_address 2001:db8::1 IPv6_Destination_Address 2001:db8::2 Port 3782 Checksum on }",
    ]
    translation = translate(conntrackd(links="\n".join(links)))
    assert tomllib.loads(translation.toml)["link"] == [
        {"transport": "multicast", "group": "ff02::50", "port": 3780, "interface": "eth0.100"},
        {
            "transport": "udp",
            "bind": "203.0.113.1",
            "peers": ["203.0.113.2"],
            "port": 3781,
            "interface": "sync",
        },
        {"transport": "tcp", "bind": "2001:db8::1", "peers": ["2001:db8::2"], "port": 3782},
    ]
    assert told(translation)["Sync.Multicast Default"] is Severity.DIFFERS


@pytest.mark.parametrize(("word", "mode"), [("Yes", "hot"), ("on", "hot"), ("no", "warm"), ("Off", "warm")])
def test_without_an_external_cache_it_is_hot(word: str, mode: str) -> None:
    translation = translate(conntrackd(mode=f"DisableExternalCache {word}"))
    assert config_of(translation).standby.mode == mode
    assert ("Sync.Mode.DisableExternalCache" in told(translation)) == (mode == "hot")


@pytest.mark.parametrize("mode", ["NOTRACK", "alarm"])
def test_another_mode_differs(mode: str) -> None:
    translation = translate(conntrackd().replace("FTFW", mode))
    assert told(translation)["Sync.Mode"] is Severity.DIFFERS
    config_of(translation)


@pytest.mark.parametrize(
    ("said", "expectations"),
    [
        ("ExpectationSync On", True),
        ("ExpectationSync no", False),
        ("ExpectationSync { }", False),
        ("ExpectationSync {\nftp\nras\nq.931\nh.245\nsip\n}", ("ftp", "RAS", "Q.931", "H.245", "sip")),
        ("ExpectationSync { ftp sip ftp }", ("ftp", "sip")),
    ],
)
def test_expectations(said: str, expectations: bool | tuple[str, ...]) -> None:
    translation = translate(conntrackd(options=f"TCPWindowTracking On {said}"))
    assert config_of(translation).replicate.expectations == expectations
    assert "replicate.expectations" not in told(translation)


@pytest.mark.parametrize(
    ("said", "size"),
    [
        ("NetlinkBufferSize 2097152 NetlinkBufferSizeMaxGrowth 8388608", 64 << 20),
        ("NetlinkBufferSize 2097152 NetlinkBufferSizeMaxGrowth 134217728", 128 << 20),
        ("NetlinkBufferSize 268435456 NetlinkBufferSizeMaxGrowth 134217728", 256 << 20),
        ("SocketBufferSizeMaxGrown 99999999999", 1 << 30),
    ],
)
def test_the_event_buffer_never_becomes_smaller(said: str, size: int) -> None:
    assert config_of(translate(conntrackd(general=said))).kernel.event_buffer_bytes == size


def test_what_is_lost_comes_first() -> None:
    translation = translate(conntrackd(general="Novelty 1\nHashSize 1 Scheduler { Type FIFO Priority 9 }\nLogFile on"))
    lost = [(remark.line, remark.option) for remark in translation.remarks if remark.severity is Severity.LOST]
    assert lost == [(7, "General.Novelty"), (8, "General.Scheduler")]
    assert [remark.severity for remark in translation.remarks] == sorted(
        (remark.severity for remark in translation.remarks), key=list(Severity).index
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Stats { LogFile on }", "collects statistics and replicates nothing"),
        ("Helper { Type ftp inet tcp { QueueNum 0 } }", "runs helpers in user space and replicates nothing"),
        ("General { HashSize 1 }", "no Sync"),
        ("", "no Sync"),
        ("Sync { Mode FTFW { } }", "no Multicast, UDP or TCP in Sync"),
    ],
)
def test_nothing_to_replicate_is_nothing_to_translate(text: str, why: str) -> None:
    with pytest.raises(NothingToDoError, match=why):
        translate(text)


# any file

WORDS = sorted(
    {part for name in OPTIONS for part in name.split(".")}
    | {"{", "}", "\n", "# x\n", "FTFW", "Accept", "Ignore", "Default", "for", "ESTABLISHED", "On", "no", "eth0"}
    | {"225.0.0.50", "ff02::50", "203.0.113.1", "192.0.2.0/24", "::1", "0", "3780", "99999999999", "/run/x", "\x7f"}
)


def mostly(right: st.SearchStrategy[str], wrong: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.integers(0, 15).flatmap(lambda chance: right if chance else wrong)


PORTS = mostly(st.integers(1, 65535).map(str), st.integers(-1, 70000).map(str) | st.text(max_size=3))
INTERFACES = mostly(st.sampled_from(["sync", "eth0.100", "bond0_a"]), st.text(max_size=17))
HOSTS = mostly(st.ip_addresses(v=4, network="192.0.2.0/24").map(str), st.ip_addresses().map(str))
GROUPS = mostly(st.ip_addresses(v=4, network="225.0.0.0/8").map(str), st.ip_addresses().map(str))
LINKS = st.builds("Multicast Default {{ IPv4_address {} Group {} Interface {} }}\n".format, GROUPS, PORTS, INTERFACES)
LINKS |= st.builds(
    "{} {{ IPv4_address {} IPv4_Destination_Address {} Port {} Interface {} }}\n".format,
    *(st.sampled_from(["UDP", "TCP"]), HOSTS, HOSTS, PORTS, INTERFACES),
)
POLICIES = st.sampled_from(["Accept", "Ignore"])
LISTS = {
    "Protocol": mostly(st.sampled_from(["TCP", "UDP", "137", "IPv6-ICMP"]), st.text(max_size=5)),
    "State": mostly(st.sampled_from(["ESTABLISHED", "CLOSED for TCP", "LISTEN"]), st.text(max_size=5)),
    "Address": HOSTS.map("IPv4_address {}".format) | st.just("IPv6_address 2001:db8::1/32"),
}
FILTERS = st.sampled_from(sorted(LISTS)).flatmap(
    lambda name: st.builds(
        f"{name} {{}} {{{{ {{}} }}}}\n".format, POLICIES, st.lists(LISTS[name], min_size=1, max_size=4).map(" ".join)
    )
)
FILES = (
    st.text()
    | st.lists(st.sampled_from(WORDS)).map(" ".join)
    | st.builds(
        "Sync {{ Mode FTFW {{ {} }} {} Options {{ ExpectationSync {{{}}} }} }} General {{ Filter {{ {} }} {} }}".format,
        mostly(st.just("DisableExternalCache Off"), st.lists(st.sampled_from(WORDS), max_size=3).map(" ".join)),
        st.lists(LINKS, min_size=1, max_size=3).map("".join),
        mostly(st.sampled_from(["ftp", "ras sip", ""]), st.text(max_size=5)),
        st.lists(FILTERS, max_size=2).map("".join),
        mostly(st.integers(1).map("NetlinkBufferSize {}".format), st.text(max_size=20)),
    )
)


@given(FILES)
def test_any_file_becomes_a_configuration_or_is_refused(text: str) -> None:
    said: list[str] = []
    try:
        translation = translate(text)
    except (MigrationError, NothingToDoError) as error:
        said.append(str(error))
    else:
        config_of(translation)
        said += (remark.option + remark.why for remark in translation.remarks)
    assert all(each.isprintable() for each in said)


@given(
    st.sampled_from([MULTICAST, UDP]),
    st.lists(FILTERS, max_size=2).map("".join),
    st.text(alphabet="# \tx\r", max_size=9),
)
def test_comments_and_white_space_change_nothing_but_the_lines(link: str, filters: str, noise: str) -> None:
    text = conntrackd(links=link, general=f"Filter {{ {filters} }}")
    noisy = text.replace("\n", f"\n\t# {noise}\n\n")

    def outcome(of: str) -> object:
        try:
            return tomllib.loads(translate(of).toml)
        except MigrationError as error:
            return re.sub(r"line \d+", "", str(error))

    assert outcome(noisy) == outcome(text)


# conntrackd's own examples and manual


@needs_conntrackd
@pytest.mark.parametrize("mode", ["ftfw", "alarm", "notrack"])
def test_debians_examples_become_configurations(mode: str) -> None:
    translation = translate((EXAMPLES / f"sync/{mode}/conntrackd.conf").read_text())
    (link,) = config_of(translation).link
    assert (link.transport, link.interface, link.port) == ("multicast", "eth2", 3780)
    assert tomllib.loads(translation.toml)["replicate"]["protocols"] == ["tcp", "sctp", "dccp"]
    assert Severity.LOST not in told(translation).values()
    assert ("Sync.Mode" in told(translation)) == (mode != "ftfw")


@needs_conntrackd
@pytest.mark.parametrize("mode", ["ftfw", "alarm", "notrack"])
def test_debians_examples_become_configurations_with_everything_switched_on(mode: str) -> None:
    text = (EXAMPLES / f"sync/{mode}/conntrackd.conf").read_text()
    on = re.sub(r"^(\s*)#\s*(?=(?:[A-Z]\w+ (?:[\dA-Z/]\S*|on)|IPv\d_\w+ [\da-f.:]+)$)", r"\1", text, flags=re.MULTILINE)
    assert len(translate(on).remarks) > len(translate(text).remarks)
    assert config_of(translate(on)).standby.mode == "warm"


@needs_conntrackd
def test_debians_example_of_statistics_is_refused() -> None:
    with pytest.raises(NothingToDoError, match="statistics"):
        translate((EXAMPLES / "stats/conntrackd.conf").read_text())


@needs_conntrackd
def test_the_manuals_examples_become_configurations() -> None:
    examples = [
        text
        for text in re.findall(r"^\.nf\n(.*?)^\.fi", manual(), re.MULTILINE | re.DOTALL)
        if text.startswith("Sync {")
    ]
    assert len(examples) == 2
    first, second = (translate(text.replace("\\", "")) for text in examples)
    assert [link.port for link in config_of(first).link] == [3780, 3781]
    assert config_of(second).standby.mode == "hot"
    lost = [remark.option for remark in second.remarks if remark.severity is Severity.LOST]
    assert lost == ["General.Filter.Address Ignore 192.168.0.0/16"]  # the link's network is a part of it
