import io
import json

from rich.console import Console

from ftfw.lab.failover_run import LabRun, LabTakeover
from ftfw.lab.lab_report import Printer, as_json, heading, line
from ftfw.lab.verdicts import Outcome, Row, Verdict

SURVIVOR = Row(
    name="tcp-idle-v4",
    title="TCP, idle, IPv4",
    takeovers=2,
    outcomes=[Outcome(verdict=Verdict.SURVIVED, pause_s=pause) for pause in (0.25, 1.5)],
)
CASUALTY = Row(
    name="udp-v4",
    title="UDP, server speaks first, IPv4",
    takeovers=2,
    outcomes=[Outcome(verdict=Verdict.LOST, reason="nothing heard for 10 s")],
)
RUN = LabRun(
    site="namespaces",
    daemon="ftfw",
    mode="hot",
    rows=[SURVIVOR, CASUALTY],
    takeovers=[LabTakeover(failed="fw1", successor="fw2", promote_s=0.5, seconds=0.6)],
    seconds=21.0,
)


def test_a_survivor_shows_both_pauses() -> None:
    assert str(line(SURVIVOR)).split() == [
        "tcp-idle-v4",
        "TCP,",
        "idle,",
        "IPv4",
        *["survived", "0.25", "s", "1.50", "s"],
    ]


def test_a_lost_flow_shows_why_instead() -> None:
    assert str(line(CASUALTY)).endswith("lost       takeover 1: nothing heard for 10 s")


def test_columns_stand_below_their_heads() -> None:
    assert str(line(SURVIVOR)).index("survived") == str(heading()).index("verdict")
    assert len(str(line(SURVIVOR))) == len(str(heading()))


def test_json_tells_each_flow_and_the_totals() -> None:
    run = json.loads(as_json([RUN]))["runs"][0]
    assert (run["survived"], run["lost"], run["mode"], run["daemon"]) == (1, 1, "hot", "ftfw")
    survivor, casualty = run["rows"]
    assert survivor["survived"] is True
    assert [outcome["pause_s"] for outcome in survivor["outcomes"]] == [0.25, 1.5]
    assert casualty["survived"] is False
    assert casualty["reason"] == "takeover 1: nothing heard for 10 s"
    assert run["takeovers"][0]["successor"] == "fw2"


def test_a_row_is_printed_once_it_is_settled() -> None:
    output = io.StringIO()
    printer = Printer(Console(file=output, width=80))
    printer.row(Row(name="waiting", title="not settled", takeovers=2))
    assert output.getvalue() == ""
    printer.row(SURVIVOR)
    printer.row(CASUALTY)
    printer.finished(RUN)
    head, *rows, foot = output.getvalue().splitlines()
    assert head.startswith("flow")
    assert [text.split()[0] for text in rows] == ["tcp-idle-v4", "udp-v4"]
    assert foot == "ftfw, hot: 1 of 2 flows survived both takeovers (21 s)"
    assert printer.runs == [RUN]
