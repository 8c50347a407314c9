"""Control groups: each container that boots is to have one of its own.

Without, those that were started from the same group share one, and a systemd that stops a unit removes the unit's group
from under another systemd that is just starting its own of that name.
"""

import os
from contextlib import suppress
from pathlib import Path

import trio

LET_GO_S = 5
ENTER = """
set -e
for group in $1; do
    mkdir -p "$group"
    echo $$ >"$group/cgroup.procs"
done
shift
exec "$@"
"""


def entering(name: str) -> tuple[str, ...]:
    """Return what to put before a command that is to run in a group called `name`, below this process's own."""
    return "sh", "-c", ENTER, "enter", " ".join(str(own / name) for own in _own())


def named(prefix: str) -> list[Path]:
    """Return the groups whose names begin with this, whoever has made them, and from where."""
    walks = (os.walk(mounted) for mounted in _mounted().values())  # which does not mind what goes meanwhile
    return [
        Path(folder, name) for walk in walks for folder, below, _ in walk for name in below if name.startswith(prefix)
    ]


def remove(prefix: str) -> bool:
    """Remove the groups whose names begin with this; return whether none is left: processes must have left first."""
    for group in named(prefix):
        for folder, _, _ in os.walk(group, topdown=False):
            with suppress(OSError):  # busy, or its systemd was faster
                Path(folder).rmdir()
    return not named(prefix)


async def remove_when_empty(prefix: str) -> None:
    """Remove them as soon as what was killed in them has gone; what takes longer is left to `ftfw lab --clean`."""
    with trio.move_on_after(LET_GO_S):
        while not remove(prefix):  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.02)


def _mounted() -> dict[str, Path]:
    """Return where those hierarchies are that systemd keeps its units in, by their names in /proc/self/cgroup."""
    found = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            found["" if kind == "cgroup2" else "name=systemd"] = Path(place)
    return found


def _own() -> list[Path]:
    """Return this process's groups in them: cgroups(7), "/proc files"."""
    mounted = _mounted()
    groups = [line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines()]
    return [mounted[hierarchy] / path.lstrip("/") for hierarchy, path in groups if hierarchy in mounted]
