"""The documents and the files in conf/ against the code."""

import ast
import errno
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from ftfw.config.schema import Config, load, require_complete
from ftfw.kernel.netlink import errno_name

ROOT = Path(__file__).parents[2]
COUNTERS = {"dropped", "failed", "remedied"}


def documents() -> dict[str, str]:
    """Return the text of every document, by its path."""
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name: (ROOT / name).read_text() for name in listed.split()}


def test_lines_of_documents_are_short() -> None:
    """Tables and addresses of the web cannot be wrapped."""
    found = documents()
    assert {"README.md", "CHANGELOG.md", "docs/commands.md"} <= found.keys()
    long = [
        f"{name}:{number}"
        for name, text in found.items()
        for number, line in enumerate(text.splitlines(), start=1)
        if len(line) > 120 and "|" not in line and "http" not in line
    ]
    assert long == []


def test_the_readme_fits_on_two_screens() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 110


def anchors(text: str) -> set[str]:
    """Return the names under which the headings of a document are reached, as forges make them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_between_documents_leads_somewhere() -> None:
    found = documents()
    links = [
        (name, target, anchor)
        for name, text in found.items()
        for target, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)#?([^)\s]*)\)", text)
    ]
    assert len(links) > 50
    for name, target, anchor in links:
        path = (ROOT / name).parent / target if target else ROOT / name
        assert path.exists(), f"{name}: {target}"
        assert not anchor or anchor in anchors(path.read_text()), f"{name}: {target}#{anchor}"


def _strings_in(expression: ast.expr) -> list[str]:
    """The outcomes of an expression that is one string or chooses among several."""
    match expression:
        case ast.Constant(value=str(value)):
            return [value]
        case ast.IfExp(body=one, orelse=other):
            return _strings_in(one) + _strings_in(other)
    return []


def reasons() -> Iterator[str]:
    """Every reason that the code counts something under, as far as it is written out."""
    for path in ROOT.glob("ftfw/**/*.py"):
        if "lab" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Subscript(
                    value=ast.Attribute(attr=name) | ast.Name(id=name), slice=ast.Constant(value=str(key))
                ):
                    if name.strip("_") in COUNTERS:
                        yield key
                case ast.Call(func=ast.Name(id="RefusedError" | "BodyError"), args=[reason, *_]):
                    yield from _strings_in(reason)
    yield "kernel"  # `link.datagram` adds what the kernel counts
    yield from (name for name in map(errno_name, errno.errorcode) if name.upper() not in errno.errorcode.values())


def test_every_reason_is_told() -> None:
    section = (
        (ROOT / "docs/commands.md").read_text().partition("## What is counted, by reason")[2].partition("\n## ")[0]
    )
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| ")]
    told = {reason for row in rows for reason in re.findall("`([a-z_]+)`", row)}
    known = set(reasons())
    assert {"forged", "too_long", "byte_order", "table_full", "helper_lost"} <= known
    assert known - told == set()
    assert told - known == set()


# conf/


def switched_on(text: str) -> str:
    """A file of conf/ with everything in it that is commented out."""
    return re.sub(r"^#(?=[\w\[])", "", text, flags=re.MULTILINE)


def sections_of(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in sections_of(part)]


def test_the_configuration_loads_as_it_is_and_with_everything_switched_on(tmp_path: Path) -> None:
    text = (ROOT / "conf/ftfw.toml").read_text()
    require_complete(load(ROOT / "conf/ftfw.toml"), ROOT)
    whole = tmp_path / "ftfw.toml"
    whole.write_text(switched_on(text))
    assert [link.transport for link in load(whole).link] == ["multicast", "udp", "tcp"]


def test_the_configuration_as_it_is_has_the_defaults() -> None:
    config = load(ROOT / "conf/ftfw.toml")
    given = {"link", "security"}
    assert config.model_dump(exclude=given) == Config().model_dump(exclude=given)


@pytest.mark.parametrize(
    ("file", "form"), [("conf/ftfw.toml", r"^#?{key} = "), ("docs/configuration.md", r"^\| `{key}` \|")]
)
def test_every_key_is_explained_under_its_section(file: str, form: str) -> None:
    parts = re.split(r"^[#` ]*\[+(\w+)\]+`?$", (ROOT / file).read_text(), flags=re.MULTILINE)
    told: dict[str, str] = {}
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        told[name] = told.get(name, "") + text
    for name, field in Config.model_fields.items():
        for model in sections_of(field.annotation):
            for key in model.model_fields:
                assert re.search(form.format(key=key), told[name], flags=re.MULTILINE), f"{name}.{key}"


def test_the_sysctls_are_those_that_a_check_looks_at() -> None:
    text = switched_on((ROOT / "conf/sysctl.conf").read_text())
    found = dict(re.findall(r"^net\.netfilter\.(\w+) = (\d+)$", text, flags=re.MULTILINE))
    assert len(found) == len([line for line in text.splitlines() if line and not line.startswith("# ")])
    sources = [*ROOT.glob("ftfw/cli/check/*.py"), ROOT / "ftfw/daemon/requirements.py"]
    looked_at = "".join(path.read_text() for path in sources)
    assert [name for name in found if name.removeprefix("nf_conntrack_") not in looked_at] == []
