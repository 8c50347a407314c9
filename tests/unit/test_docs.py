"""The documents and the files in conf/ against the code."""

import ast
import errno
import re
from collections.abc import Iterator
from pathlib import Path

from ftfw.kernel.netlink import errno_name

ROOT = Path(__file__).parents[2]
COUNTERS = {"dropped", "failed", "remedied"}


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
                case ast.Call(func=ast.Name(id="RefusedError" | "BodyError"), args=[ast.Constant(value=str(key)), *_]):
                    yield key
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
