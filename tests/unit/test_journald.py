import io
import logging
import os
from pathlib import Path

import pytest

from ftfw.daemon.log.journald import JournalFormatter, log_formatter


@pytest.mark.parametrize(("level", "priority"), [("info", 6), ("warning", 4), ("error", 3), ("critical", 3)])
def test_every_line_in_the_journal_has_its_priority(level: str, priority: int) -> None:
    stream = io.StringIO()
    logger = logging.Logger("test")
    logger.addHandler(handler := logging.StreamHandler(stream))
    handler.setFormatter(JournalFormatter("%(message)s"))
    getattr(logger, level)("one\ntwo")
    assert stream.getvalue() == f"<{priority}>one\n<{priority}>two\n"


def test_priorities_are_for_the_journal_only(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        status = os.fstat(stream.fileno())
        its_own = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert isinstance(log_formatter(stream, its_own), JournalFormatter)
        for other in ({}, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"}):
            assert not isinstance(log_formatter(stream, other), JournalFormatter)
