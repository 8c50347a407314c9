import re
from collections.abc import Iterator
from pathlib import Path

from ftfw.cli.migration.conntrackd_options import OPTIONS, TranslatedOption, UntranslatedOption
from ftfw.config.schema import Config
from tests.unit.conntrackd_files import manual, needs_conntrackd

PAGE = (Path(__file__).parents[2] / "docs/migration.md").read_text()


def rows() -> Iterator[str]:
    """The rows that the page is to have."""
    for name, rule in OPTIONS.items():
        match rule:
            case TranslatedOption(key=key, how=how):
                yield f"| `{name}` | `{key}` | {how} |"
            case UntranslatedOption(severity=severity, why=why):
                yield f"| `{name}` | {severity} | {why} |"


def test_the_page_has_the_table() -> None:
    found = PAGE.partition("<!-- options -->\n")[2].partition("<!-- /options -->")[0]
    assert found.splitlines()[2:] == list(rows())


def test_the_page_has_every_command_of_conntrackd() -> None:
    commands = PAGE.partition("## Its commands")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `conntrackd -(\w)", commands, re.MULTILINE)) == set("dcfFRBntiexsk")


def test_every_key_of_the_table_is_one_of_ours() -> None:
    of_links = {"group", "bind", "peers", "port", "interface"}
    keys = [rule.key for rule in OPTIONS.values() if isinstance(rule, TranslatedOption)]
    assert {"standby.mode", "link.bind"} <= set(keys)
    for key in keys:
        table, _, name = key.partition(".")
        assert name in (of_links if table == "link" else type(getattr(Config(), table)).model_fields), key


@needs_conntrackd
def test_the_manuals_options_are_all_known() -> None:
    slips = {"IPv6_Destionation_Address": "IPv6_Destination_Address", "Lockfile": "LockFile"}  # the manual's
    inner = {"Path", "Backlog", "Type", "Priority", "QueueNum", "QueueLen", "Policy"}  # of sections taken as a whole
    names = {slips.get(name, name) for name in re.findall(r'^\.BI "(\w+) <', manual(), re.MULTILINE)}
    assert {"CommitTimeout", "PollSecs", "Protocol", "Scheduler"} - names == {"Scheduler"}
    assert names - inner - {name.rpartition(".")[2] for name in OPTIONS} == set()
