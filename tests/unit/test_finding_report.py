import pytest

from ftfw.cli.check.finding import Finding, Level
from ftfw.cli.check.finding_report import print_findings


def test_the_report_does_not_take_words_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_findings([Finding(level=Level.OK, subject="link[0]", found="[red]x :smile:")])
    assert capsys.readouterr().out == "ok       link[0]: [red]x :smile:\n1 ok, 0 warning, 0 problem\n"
