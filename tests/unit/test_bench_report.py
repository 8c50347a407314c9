from io import StringIO

from rich.console import Console

from bench.report import NO_DAEMON, QUANTITIES, Results, Row, as_json, rows, table

CPU = {
    "active_us": 12.0,
    "active_user_us": 2.0,
    "backup_us": 8.0,
    "backup_user_us": 2.0,
    "wire_bytes": 75.0,
    "traffic_us": 18.0,
    "pace": 1.0,
    "neighbours": 0.01,
    "overruns": 0,
    "missing": 0,
}
RESULTS: Results = {
    "cpu": {
        NO_DAEMON: [{"traffic_us": 15.0, "pace": 1.0, "missing": 0, "neighbours": 0}],
        "conntrackd": [CPU, CPU | {"active_us": 100.0}, CPU],
        "ftfw": [
            CPU | {"active_us": 2.0, "backup_us": 4.0, "wire_bytes": 40.0},
            CPU | {"active_us": 3.0, "backup_us": 4.0, "wire_bytes": 40.0, "missing": 5},
            CPU | {"active_us": 2.5, "backup_us": 4.0, "wire_bytes": 40.0},
        ],
    },
    "commit": {
        "conntrackd": [{"rate": 100_000, "kernel_rate": 600_000, "missing": 0, "neighbours": 0}],
        "ftfw": [{"rate": 450_000, "kernel_rate": 600_000, "missing": 0, "neighbours": 0}],
    },
}


def by_name(results: Results) -> dict[str, Row]:
    return {row.quantity.name.strip(): row for row in rows(results)}


def test_medians_ratios_and_targets() -> None:
    computed = by_name(RESULTS)
    active = computed["active CPU per event"]
    assert (active.conntrackd, active.ftfw, active.met) == (12.0, 2.5, True)
    assert computed["backup CPU per event"].ratio == 0.5
    assert computed["backup CPU per event"].met is False
    assert computed["bytes on the wire per event"].met is True
    assert computed["warm commit"].met is True
    assert computed["share of the kernel's own"].ftfw == 0.75
    assert computed["share of the kernel's own"].met is False


def test_one_bad_run_is_not_hidden_by_a_median() -> None:
    missing = by_name(RESULTS)["entries missing on the backup"]
    assert (missing.ftfw, missing.met) == (5, False)


def test_the_traffic_pays_what_it_pays_beyond_a_run_without_a_daemon() -> None:
    assert by_name(RESULTS)["packets' path, CPU per event"].conntrackd == 3.0


def test_without_conntrackd_only_absolute_targets_are_judged() -> None:
    alone: Results = {"cpu": {name: runs for name, runs in RESULTS["cpu"].items() if name != "conntrackd"}}
    computed = by_name(alone)
    assert computed["active CPU per event"].met is None
    assert computed["bytes on the wire per event"].met is True


def test_a_table_prints_every_row_and_only_scenarios_that_ran() -> None:
    computed = rows(RESULTS)
    assert {row.quantity.scenario for row in computed} == {"cpu", "commit"}
    output = StringIO()
    Console(width=80, file=output).print(table(computed, "a title"))
    printed = output.getvalue()
    for quantity in QUANTITIES:
        assert (quantity.name in printed) == (quantity.scenario in RESULTS)
    assert "≤ 1/4" in printed
    assert len(as_json(computed)) == len(computed)
