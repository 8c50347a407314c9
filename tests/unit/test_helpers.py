import os
from pathlib import Path

import pytest

from ftfw.kernel import helpers


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(helpers, "MODULES", tmp_path)
    directory = tmp_path / os.uname().release
    directory.mkdir()
    (directory / "modules.builtin").write_text("kernel/net/netfilter/nf_conntrack_ftp.ko\n")
    return directory


def test_helpers_are_found_without_loading_any(modules: Path) -> None:
    assert helpers.installed_helpers() is None
    (modules / "modules.dep").write_text(
        "kernel/net/netfilter/nf_conntrack_sip.ko.xz: kernel/net/netfilter/nf_conntrack.ko.xz\n"
        "kernel/net/netfilter/nf_conntrack_h323.ko.zst:\nkernel/net/netfilter/nf_conntrack_netbios_ns.ko:\n"
    )
    assert helpers.installed_helpers() == ["ftp", "sip", "Q.931", "RAS", "netbios-ns"]
