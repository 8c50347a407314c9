import json
import logging
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import trio
from click.testing import CliRunner, Result

from ftfw import __version__
from ftfw.cli.commands import main
from ftfw.cli.migration.translation import translate
from ftfw.config.schema import Config
from ftfw.control.client import ControlError
from ftfw.control.server import Progress, serve
from ftfw.security.key_file import read
from tests.unit.conntrackd_files import conntrackd

COMMIT = {"seconds": 0.25, "created": 3, "updated": 2, "deleted": 1, "failed": {"EEXIST": 4}}
STATUS = {"node": "fw1", "role": "backup", "ready": True, "kernel": {"events": 9}, "queue_bytes": 12}
FLOW = {"family": "ipv4", "protocol": "tcp", "timeout": 300, "original": {"src": "192.0.2.1"}, "mark": 1}

Answers = dict[str, dict[str, Any] | str]


class FakeDaemon:
    """Answers on a control socket, in a thread of its own, and remembers what it was asked."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "control.sock"
        self.config = directory / "ftfw.toml"
        self.config.write_text(f'control.socket = "{self.socket}"\n')
        self.asked: list[dict[str, Any]] = []
        self.answers: Answers = {"status": STATUS}
        self._up = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._serve,))

    async def _handle(self, request: dict[str, Any], progress: Progress) -> dict[str, Any]:
        self.asked.append({key: value for key, value in request.items() if key != "arrival"})  # the server's own
        await progress({"done": 1, "total": 2})
        answer = self.answers[request["command"]]
        if isinstance(answer, str):
            raise ControlError(answer)
        return answer

    async def _serve(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as self._nursery:
            await self._nursery.start(lambda task_status: serve(self.socket, self._handle, task_status=task_status))
            self._up.set()

    def start(self) -> None:
        self._thread.start()
        assert self._up.wait(5)

    def stop(self) -> None:
        self._token.run_sync_soon(self._nursery.cancel_scope.cancel)
        self._thread.join(5)

    def run(self, *arguments: str) -> Result:
        return run(*arguments, "--config", str(self.config))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="ftfw")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    fake = FakeDaemon(tmp_path)
    fake.start()
    yield fake
    fake.stop()


def test_version() -> None:
    assert run("--version").stdout == f"ftfw {__version__}\n"


def test_help_names_every_command() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert "..." not in result.stdout.partition("Commands:")[2]  # no sentence is cut off
    for command in ["promote", "demote", "status", "show", "resync", "scrub", "notify", "check", "keygen", "lab"]:
        assert f"\n  {command} " in result.stdout
        assert command == "lab" or "--config" in run(command, "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a command, or start the daemon with --role active|backup"),
        (["--role", "master"], "'master' is not one of 'active', 'backup'"),
        (["--role", "active", "promote"], "--role starts the daemon and takes no command"),
        (["promot"], "No such command 'promot'"),
        (["show"], "Missing argument"),
        (["show", "packets"], "'packets' is not one of 'flows', 'expectations'"),
        (["notify", "INSTANCE", "FW"], "Missing argument 'STATE'"),
        (["notify", "INSTANCE", "FW", "MASTERX"], "'MASTERX' is not one of 'MASTER'"),
        (["notify", "INSTANCE", "FW", "MASTER", "high"], "'high' is not a valid integer"),
        (["keygen"], "Missing argument 'FILE'"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_no_daemon_is_exit_code_1_and_one_line(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text(f'control.socket = "{tmp_path}/control.sock"')
    for command in (["promote"], ["demote"], ["status"], ["show", "flows"], ["resync"], ["scrub"]):
        result = run(*command, "--config", str(tmp_path / "f.toml"))
        assert result.exit_code == 1
        assert result.stderr.startswith(f"ftfw: {tmp_path}/control.sock: no such socket: ftfw is not running")
        assert result.stderr.count("\n") == 1


def test_a_configuration_that_is_not_there_is_told_besides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, daemon: FakeDaemon
) -> None:
    named = ("--config", str(tmp_path / "none.toml"))
    monkeypatch.setattr("ftfw.control.client.DEFAULT_SOCKET", tmp_path / "none.sock")
    result = run("promote", *named)
    assert result.exit_code == 1
    warning, error = result.stderr.splitlines()
    assert warning.startswith(
        f"ftfw: warning: {tmp_path}/none.toml: No such file or directory; trying {tmp_path}/none.sock"
    )
    assert error.startswith(f"ftfw: {tmp_path}/none.sock: no such socket: ")
    monkeypatch.setattr("ftfw.control.client.DEFAULT_SOCKET", daemon.socket)
    daemon.answers["promote"] = {"role": "active"}
    assert run("promote", *named).exit_code == 0


def test_config_may_stand_before_the_command(daemon: FakeDaemon) -> None:
    assert run("--config", str(daemon.config), "status", "--json").exit_code == 0


def test_a_slip_in_the_file_does_not_stop_a_takeover(daemon: FakeDaemon) -> None:
    daemon.answers["promote"] = {"role": "active"}
    for slip in ('standby.mode = "cold"', "oops"):
        daemon.config.write_text(f'control.socket = "{daemon.socket}"\n{slip}\n')
        assert daemon.run("promote").exit_code == 0


def test_a_broken_default_file_is_told_and_passed_over(
    tmp_path: Path, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "default.toml").write_text("[control")
    monkeypatch.setattr("ftfw.control.client.DEFAULT_CONFIG", tmp_path / "default.toml")
    monkeypatch.setattr("ftfw.control.client.DEFAULT_SOCKET", daemon.socket)
    daemon.answers["promote"] = {"role": "active"}
    result = run("promote")
    assert result.exit_code == 0
    assert result.stderr.startswith(f"ftfw: warning: {tmp_path}/default.toml: ")


def test_promote_tells_the_commit_in_one_line(daemon: FakeDaemon) -> None:
    daemon.answers["promote"] = {"role": "active", "last_commit": COMMIT, "warnings": ["not in sync"]}
    result = daemon.run("promote")
    assert result.exit_code == 0
    assert result.stdout == "active; 3 created, 2 updated, 1 deleted, 4 failed (4 EEXIST) in 0.250 s\n"
    assert result.stderr == "ftfw: warning: not in sync\n"
    assert daemon.asked == [{"command": "promote"}]


def test_promote_on_an_active_says_no_more_than_that(daemon: FakeDaemon) -> None:
    daemon.answers["promote"] = {"role": "active", "changed": False, "last_commit": COMMIT}
    assert daemon.run("promote").stdout == "active\n"


def test_demote_and_resync(daemon: FakeDaemon) -> None:
    daemon.answers |= {"demote": {"role": "backup", "changed": True}, "resync": {}, "scrub": {}}
    assert daemon.run("demote").stdout == "backup\n"
    assert daemon.run("scrub").stdout.startswith("a compare is requested; ")
    assert daemon.run("resync").stdout == "a snapshot is requested; `ftfw status` shows when it is complete\n"
    assert [request["command"] for request in daemon.asked] == ["demote", "scrub", "resync"]  # no terminal: no wait


def test_a_refusal_is_exit_code_1(daemon: FakeDaemon) -> None:
    daemon.answers["resync"] = "an active streams; ask on a backup"
    result = daemon.run("resync")
    assert (result.exit_code, result.stderr) == (1, "ftfw: an active streams; ask on a backup\n")


@pytest.mark.parametrize("state", ["MASTER", "BACKUP", "FAULT", "STOP", "DELETED"])
def test_notify_hands_keepalived_s_arguments_on(daemon: FakeDaemon, state: str) -> None:
    daemon.answers["notify"] = {"role": "backup"}
    assert daemon.run("notify", "INSTANCE", "FW", state, "150").exit_code == 0
    assert daemon.run("notify", "GROUP", "FW", state).exit_code == 0
    expected = {"command": "notify", "type": "INSTANCE", "name": "FW", "state": state, "priority": 150}
    assert daemon.asked == [expected, {**expected, "type": "GROUP", "priority": None}]


def test_status_as_json_is_what_the_daemon_says(daemon: FakeDaemon) -> None:
    result = daemon.run("status", "--json")
    assert json.loads(result.stdout) == STATUS


@pytest.mark.parametrize(("ready", "code", "text"), [(True, 0, "ready\n"), (False, 1, "not ready\n")])
def test_status_ready_is_an_exit_code(daemon: FakeDaemon, ready: bool, code: int, text: str) -> None:
    daemon.answers |= {"status": {**STATUS, "ready": ready}, "ready": {"ready": ready}}
    result = daemon.run("status", "--ready")
    assert (result.exit_code, result.stdout) == (code, text)
    assert daemon.asked == [{"command": "ready"}]  # without counting entries: it may be asked every second
    result = daemon.run("status", "--ready", "--json")
    assert (result.exit_code, json.loads(result.stdout)["ready"]) == (code, ready)


@pytest.mark.parametrize(
    ("options", "count"),
    [(["--json"], True), ([], True), (["--json", "--no-count"], False), (["--ready", "--json"], False)],
)
def test_whoever_asks_on_a_timer_has_nothing_counted(daemon: FakeDaemon, options: list[str], count: bool) -> None:
    daemon.run("status", *options)
    assert daemon.asked == [{"command": "status", "count": count}]


def test_status_ready_does_not_wait_for_a_daemon_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftfw.cli.commands.READY_ANSWER_S", 0.05)
    (tmp_path / "f.toml").write_text(f'control.socket = "{tmp_path}/control.sock"')
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(f"{tmp_path}/control.sock")
        hung.listen()
        result = run("status", "--ready", "--config", str(tmp_path / "f.toml"))
    assert result.exit_code == 1
    assert "the daemon hangs" in result.stderr


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """Children heed SIGINT even where the tests run in the background and ignore it: a handler is not inherited."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_ends_a_watch_well(daemon: FakeDaemon) -> None:
    command = [sys.executable, "-u", "-m", "ftfw", "status", "--watch", "0.1", "--config", str(daemon.config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        assert "every 0.1 s" in watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        rest = watching.stdout.read()
        assert daemon.asked[0] == {"command": "status", "count": False}
        assert "Traceback" not in rest + watching.stderr.read()
        assert watching.wait(10) == 0


@pytest.mark.parametrize("with_", ["--json", "--ready"])
def test_a_watch_is_for_people(with_: str) -> None:
    result = run("status", "--watch", with_)
    assert (result.exit_code, "cannot be combined with --json or --ready" in result.stderr) == (2, True)


def test_show_prints_a_line_per_entry(daemon: FakeDaemon) -> None:
    daemon.answers["show"] = {"entries": [FLOW, FLOW]}
    result = daemon.run("show", "flows")
    assert result.stdout == "ipv4 tcp 300 src=192.0.2.1 mark=0x1\n" * 2
    assert daemon.asked == [{"command": "show", "what": "flows"}]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_show_as_json_is_an_array(daemon: FakeDaemon, count: int) -> None:
    daemon.answers["show"] = {"entries": [FLOW] * count}
    assert json.loads(daemon.run("show", "expectations", "--json").stdout) == [FLOW] * count


def test_keygen(tmp_path: Path) -> None:
    file = tmp_path / "link.key"
    result = run("keygen", str(file))
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{file}: new key written; copy it to every node")
    assert len(read(file)) == 32
    result = run("keygen", str(file))
    assert result.exit_code == 1
    assert result.stderr == f"ftfw: {file}: exists and is not overwritten; name another file, or move it away\n"


def test_the_configuration_goes_to_standard_output_and_the_remarks_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "conntrackd.conf"
    file.write_bytes(conntrackd(general="HashSize 1 # f\xfcr viele").encode("latin-1"))
    done = run("check", "--from-conntrackd", str(file))
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
    done = run("check", "--from-conntrackd", str(file))
    assert (done.exit_code, done.stdout) == (code, "")
    assert done.stderr.startswith(f"ftfw: {file}: {message}")


def test_it_prints_no_json(tmp_path: Path) -> None:
    done = run("check", "--from-conntrackd", str(tmp_path), "--json")
    assert done.exit_code == 2
    assert "cannot be combined with --json" in done.stderr


def test_lab_gets_its_arguments_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    module = ModuleType("ftfw.lab.lab_command")

    @click.command()
    @click.option("--mode")
    def lab(mode: str | None) -> None:
        seen.append(mode)

    module.lab = lab  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ftfw.lab.lab_command", module)
    assert run("lab", "--mode", "hot").exit_code == 0
    assert seen == ["hot"]
    assert "Usage: ftfw lab" in run("lab", "--help").stdout
    assert run("lab", "--nonsense").exit_code == 2


@pytest.fixture
def daemon_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A stand-in for ftfw.daemon.node, and the logging set up for it taken back."""
    module = ModuleType("ftfw.daemon.node")
    module.StartError = type("StartError", (Exception,), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ftfw.daemon.node", module)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield module
    root.handlers[:] = handlers
    root.setLevel(level)


COMPLETE = """
security.key_files = ["/etc/ftfw/link.key"]
[[link]]
transport = "multicast"
interface = "sync"
group = "225.0.0.50"
"""


def test_role_starts_the_daemon(tmp_path: Path, daemon_module: ModuleType) -> None:
    seen: list[tuple[str, str, Path]] = []

    def begin(config: Config, role: str, path: Path) -> None:
        seen.append((config.link[0].interface or "", role, path))

    daemon_module.run = begin  # type: ignore[attr-defined]
    (tmp_path / "f.toml").write_text(COMPLETE)
    assert run("--role", "backup", "--config", str(tmp_path / "f.toml")).exit_code == 0
    assert seen == [("sync", "backup", tmp_path / "f.toml")]


def test_a_daemon_that_cannot_start_says_why(tmp_path: Path, daemon_module: ModuleType) -> None:
    def refuse(*_: object) -> None:
        raise daemon_module.StartError("no CAP_NET_ADMIN; run it as root")

    daemon_module.run = refuse  # type: ignore[attr-defined]
    (tmp_path / "f.toml").write_text(COMPLETE)
    result = run("--role", "backup", "--config", str(tmp_path / "f.toml"))
    assert (result.exit_code, result.stderr) == (1, "ftfw: no CAP_NET_ADMIN; run it as root\n")


def test_a_wrong_configuration_is_exit_code_2_with_a_line_each(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text("standby.mode = 'cold'\nfoo = 1\n")
    result = run("--role", "active", "--config", str(tmp_path / "f.toml"))
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        f'ftfw: {tmp_path}/f.toml: standby.mode: found "cold"; expected "warm" or "hot"',
        f"ftfw: {tmp_path}/f.toml: foo: unknown key; expected node, link, security, standby, replicate,"
        " replication, kernel, keepalived, takeover, control, metrics",
    ]
    (tmp_path / "f.toml").write_text("")
    result = run("--role", "active", "--config", str(tmp_path / "f.toml"))
    assert result.exit_code == 2
    assert "link: missing" in result.stderr


HEAVY = {"trio", "pydantic", "rich", "asyncio", "cryptography", "msgpack", "zstandard", "ftfw.daemon"}


@pytest.mark.parametrize(
    "arguments", [["notify", "INSTANCE", "FW", "MASTER"], ["promote"], ["demote"], ["status"], ["status", "--ready"]]
)
def test_a_command_that_asks_the_daemon_imports_nothing_heavy(tmp_path: Path, arguments: list[str]) -> None:
    code = f"""
import sys
from ftfw.cli.commands import main
try:
    main({arguments} + ["--config", {str(tmp_path / "f.toml")!r}])
finally:
    print(*({HEAVY} & set(sys.modules)))
"""
    (tmp_path / "f.toml").write_text(f'control.socket = "{tmp_path}/none"')
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "ftfw is not running" in done.stderr
    assert done.stdout.split() == []


def test_it_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "ftfw", "--version"], check=True, capture_output=True, text=True)
    assert done.stdout == f"ftfw {__version__}\n"
