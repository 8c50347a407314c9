import gzip
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from ftfw.cli.commands import main
from ftfw.cli.migration.conntrackd_options import OPTIONS, SINGLE, Key, Section, Severity, Without, as_markdown
from ftfw.cli.migration.conntrackd_syntax import MigrationError, Statement
from ftfw.cli.migration.conntrackd_syntax import parse as statements_of
from ftfw.cli.migration.translation import NothingToDoError, Translation, translate
from ftfw.config.schema import Config, parse, require_complete
from ftfw.config.value_types import PROTOCOLS, TCP_STATES

EXAMPLES = Path("/usr/share/doc/conntrackd/examples")
MANUAL = Path("/usr/share/man/man5/conntrackd.conf.5.gz")
MULTICAST = "Multicast { IPv4_address 225.0.0.50 Group 3780 IPv4_interface 203.0.113.1 Interface sync }"
UDP = "UDP { IPv4_address 203.0.113.1 IPv4_Destination_Address 203.0.113.2 Port 3781 Interface sync }"
needs_conntrackd = pytest.mark.skipif(not EXAMPLES.exists() or not MANUAL.exists(), reason="needs Debian's conntrackd")


def conntrackd(*, mode: str = "", links: str = MULTICAST, options: str = "", general: str = "") -> str:
    return f"Sync {{\nMode FTFW {{ {mode} }}\n{links}\nOptions {{ {options} }}\n}}\nGeneral {{\n{general}\n}}\n"


def filtered(filters: str) -> str:
    return conntrackd(general=f"Filter From Userspace {{\n{filters}\n}}")


def config_of(translation: Translation) -> Config:
    config = parse(tomllib.loads(translation.toml), Path("f.toml"))
    require_complete(config, Path("f.toml"))
    return config


def replicate_of(filters: str) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads(translate(filtered(filters)).toml)["replicate"]
    return table


def told(translation: Translation) -> dict[str, Severity]:
    return {remark.option: remark.severity for remark in translation.remarks}


# what a file looks like


def shape(statements: tuple[Statement, ...]) -> list[Any]:
    return [
        " ".join((each.name, *each.values))
        if each.block is None
        else [" ".join((each.name, *each.values)), shape(each.block)]
        for each in statements
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Sync {\n  Mode FTFW {\n    CommitTimeout 5 # seconds\n  }\n\n# over\n}\nGeneral { UNIX { Path /a#b} } }",
        "Sync\n{\nMode FTFW\n{ CommitTimeout\n5 } } General{UNIX{Path /a#b} }\n}",
    ],
)
def test_white_space_means_nothing_where_the_option_is_known(text: str) -> None:
    found = shape(statements_of(text, SINGLE))
    assert found == [["Sync", [["Mode FTFW", ["CommitTimeout 5"]]]], ["General", [["UNIX", ["Path /a#b}"]]]]]


@pytest.mark.parametrize("name", ["Sync.Multicast", "Sync.Multicast.Group", "General.HashSize"])
def test_a_name_with_dots_is_no_option_in_sections(name: str) -> None:
    remarks = translate(f"{name} 5 {{ }}\n{conntrackd()}").remarks
    assert (1, name, Severity.LOST) in {(each.line, each.option, each.severity) for each in remarks}


def test_an_unknown_option_ends_with_its_line() -> None:
    found = shape(statements_of("Sync { Novelty a b\nCommitTimeout 5 }", SINGLE))
    assert found == [["Sync", ["Novelty a b", "CommitTimeout 5"]]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Sync {\nMode FTFW {\n}\n", 'line 4: found the end of the file; expected "}" for "Sync" of line 1'),
        ("Sync {\n}\n}\n", 'line 3: found "}"; expected as many "}" as "{"'),
        ("\n{ }", 'line 2: found "{"; expected the name of a section before it'),
        ("Sync {\nCommitTimeout\n}", 'line 3: found "}"; expected a value for "CommitTimeout" of line 2'),
        ("General {\nHashSize", 'line 2: found the end of the file; expected a value for "HashSize" of line 2'),
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
        (filtered("Protocol Accept { }"), "line 8: found Protocol Accept of nothing; expected a list in braces"),
        (filtered("Protocol Some { TCP }"), 'line 8: found "Some"; expected Accept or Ignore for Protocol'),
        (
            filtered("Address Accept { 192.0.2.0/24 }"),
            'line 8: found "192.0.2.0/24"; expected IPv4_address or IPv6_address',
        ),
        (
            filtered("Address Accept { IPv4_address 192.0.2.0/33 }"),
            'line 8: found "192.0.2.0/33"; expected an address or a network for IPv4_address',
        ),
        (filtered("State Accept { ESTABLISHED for UDP }"), 'line 8: found "UDP"; expected "TCP" behind "for"'),
        (
            filtered("Protocol Accept { TCP }\nProtocol Ignore { TCP }"),
            "line 8: found a filter that lets nothing through; expected something to replicate",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, message: str) -> None:
    with pytest.raises(MigrationError) as caught:
        translate(text)
    assert str(caught.value) == message


def test_a_protocol_without_a_name_asks_for_its_number() -> None:
    with pytest.raises(MigrationError, match=r'line 8: found "mpls-in-ip"; expected one of .*the protocol\'s number'):
        translate(filtered("Protocol Accept { mpls-in-ip }"))
    assert replicate_of("Protocol Accept { 137 }")["protocols"] == [137]


# what becomes of it


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


def test_protocols() -> None:
    assert replicate_of("Protocol Accept {\nTCP\nSCTP\nDCCP\n}")["protocols"] == ["tcp", "sctp", "dccp"]
    assert replicate_of("Protocol Accept { UDP IPv6-ICMP udp gre }")["protocols"] == ["udp", "icmpv6", "gre"]
    assert replicate_of("Protocol Ignore { UDP }")["protocols"] == [name for name in PROTOCOLS if name != "udp"]
    assert replicate_of("Protocol Accept { TCP UDP }\nProtocol Ignore { UDP }")["protocols"] == ["tcp"]
    assert told(translate(filtered("Protocol Ignore { UDP }")))["General.Filter.Protocol"] is Severity.DIFFERS
    assert replicate_of("Protocol Ignore { }") == {"protocols": list(PROTOCOLS), "expectations": False}


def test_states() -> None:
    said = "ESTABLISHED CLOSED TIME_WAIT CLOSE_WAIT for TCP LISTEN for TCP"
    states = ["ESTABLISHED", "CLOSE", "TIME_WAIT", "CLOSE_WAIT", "SYN_SENT2"]
    assert replicate_of(f"State Accept {{ {said} }}")["tcp_states"] == states
    assert replicate_of(f"State Ignore {{ {said} }}")["tcp_states"] == [
        each for each in TCP_STATES if each not in states
    ]
    assert told(translate(filtered(f"State Accept {{ {said} }}")))["General.Filter.State"] is Severity.DIFFERS


def test_addresses() -> None:
    said = "Address Accept { IPv4_address 192.0.2.99/24 IPv6_address 2001:db8::/32 IPv4_address 198.51.100.1 }"
    assert replicate_of(said)["addresses"] == ["192.0.2.0/24", "2001:db8::/32", "198.51.100.1/32"]


def test_only_ignored_networks_that_flows_pass_through_are_lost() -> None:
    """The link's among them: its other hosts may speak through this one."""
    ignored = (
        *("IPv4_address 127.0.0.1", "IPv6_address ::1", "IPv4_address 192.0.2.1", "IPv4_address 203.0.113.1/32"),
        *("IPv4_address 203.0.113.0/24", "IPv4_address 198.51.100.0/24"),
    )
    translation = translate(filtered(f"Address Ignore {{ {' '.join(ignored)} }}"))
    assert "addresses" not in tomllib.loads(translation.toml)["replicate"]
    assert [remark.option for remark in translation.remarks if remark.severity is Severity.LOST] == [
        "General.Filter.Address Ignore 203.0.113.0/24",
        "General.Filter.Address Ignore 198.51.100.0/24",
    ]
    why = {remark.option.rpartition(" ")[2]: remark.why for remark in translation.remarks if "Ignore" in remark.option}
    assert len(why) == 6
    assert why["203.0.113.1"] == "it is an address of this host's link: the links' own flows are never replicated"
    assert why["203.0.113.0/24"].startswith("the links' own flows are never replicated; others of this network are")


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


def manual() -> str:
    return gzip.decompress(MANUAL.read_bytes()).decode()


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


@needs_conntrackd
def test_the_manuals_options_are_all_known() -> None:
    slips = {"IPv6_Destionation_Address": "IPv6_Destination_Address", "Lockfile": "LockFile"}  # the manual's
    inner = {"Path", "Backlog", "Type", "Priority", "QueueNum", "QueueLen", "Policy"}  # of sections taken as a whole
    names = {slips.get(name, name) for name in re.findall(r'^\.BI "(\w+) <', manual(), re.MULTILINE)}
    assert {"CommitTimeout", "PollSecs", "Protocol", "Scheduler"} - names == {"Scheduler"}
    assert names - inner - {name.rpartition(".")[2] for name in OPTIONS} == set()


# the command


def check(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["check", *map(str, arguments)], prog_name="ftfw")


def test_the_configuration_goes_to_standard_output_and_the_remarks_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "conntrackd.conf"
    file.write_bytes(conntrackd(general="HashSize 1 # f\xfcr viele").encode("latin-1"))
    done = check("--from-conntrackd", file)
    assert done.exit_code == 0
    translation = translate(file.read_text("latin-1"))
    assert done.stdout == translation.toml
    lines = done.stderr.splitlines()
    assert len(lines) == len(translation.remarks)
    assert "ftfw: not needed: line 7: General.HashSize: memory grows with the entries" in lines


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("Sync {", 2, 'line 1: found the end of the file; expected "}" for "Sync" of line 1'),
        ("Stats { }", 1, "this conntrackd collects statistics and replicates nothing"),
        (None, 2, "cannot be read: No such file or directory"),
    ],
)
def test_a_file_without_a_translation_prints_nothing(tmp_path: Path, text: str | None, code: int, message: str) -> None:
    file = tmp_path / "conntrackd.conf"
    if text is not None:
        file.write_text(text)
    done = check("--from-conntrackd", file)
    assert (done.exit_code, done.stdout) == (code, "")
    assert done.stderr.startswith(f"ftfw: {file}: {message}")


def test_it_prints_no_json(tmp_path: Path) -> None:
    done = check("--from-conntrackd", tmp_path, "--json")
    assert done.exit_code == 2
    assert "does not go with --json" in done.stderr


# the table


def test_the_page_has_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs/migration.md").read_text()
    found = page.partition("<!-- options -->\n")[2].partition("<!-- /options -->")[0]
    assert found.splitlines()[2:] == list(as_markdown())


def test_the_page_has_every_command_of_conntrackd() -> None:
    page = (Path(__file__).parents[2] / "docs/migration.md").read_text()
    rows = page.partition("## Its commands")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `conntrackd -(\w)", rows, re.MULTILINE)) == set("dcfFRBntiexsk")


def test_every_key_of_the_table_is_one_of_ours() -> None:
    tables = {"link": {"group", "bind", "peers", "port", "interface"}}
    for name, rule in OPTIONS.items():
        assert isinstance(rule, Section | Key | Without), name
        if isinstance(rule, Key):
            table, _, key = rule.key.partition(".")
            known = tables.get(table) or set(type(getattr(Config(), table)).model_fields)
            assert key in known, name
