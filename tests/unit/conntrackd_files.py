"""Makes configurations of conntrackd, and reads what they are translated to."""

import gzip
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ftfw.cli.migration.conntrackd_options import Severity
from ftfw.cli.migration.translation import Translation, translate
from ftfw.config.schema import Config, parse, require_complete

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


def manual() -> str:
    return gzip.decompress(MANUAL.read_bytes()).decode()
