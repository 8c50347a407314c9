"""Control groups: each container that boots gets one of its own.

Otherwise containers that were started from the same group share it, and a systemd that stops a unit removes the unit's
group while another systemd is starting a unit of the same name there.
"""

import os
from contextlib import suppress
from pathlib import Path

import trio

from ftfw.lab.lab_host import LabError
from ftfw.lab.lab_lock import lab_lock
from ftfw.lab.namespaces import PREFIX

EMPTY_LIMIT_S = 5
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
    """Return the words to put before a command so that it runs in a group `name` below this process's own group."""
    return "sh", "-c", ENTER, "enter", " ".join(str(own / name) for own in _own())


def named(prefix: str) -> list[Path]:
    """Return all groups whose names begin with a prefix, at every depth of the hierarchies."""
    walks = (os.walk(mounted) for mounted in _mounted().values())  # os.walk ignores groups that disappear
    return [
        Path(folder, name) for walk in walks for folder, below, _ in walk for name in below if name.startswith(prefix)
    ]


def remove(prefix: str) -> bool:
    """Remove the groups whose names begin with a prefix; return True if none is left.

    A group in which a process still runs stays.
    """
    for group in named(prefix):
        for folder, _, _ in os.walk(group, topdown=False):
            with suppress(OSError):  # a process runs in it, or its systemd has removed it
                Path(folder).rmdir()
    return not named(prefix)


async def remove_when_empty(prefix: str) -> None:
    """Remove such groups when the killed processes in them have gone; `--clean` removes what takes longer."""
    with trio.move_on_after(EMPTY_LIMIT_S):
        while not remove(prefix):  # noqa: ASYNC110 - the kernel sends no notice
            await trio.sleep(0.02)


async def remove_leftover_groups() -> list[str]:
    """Remove the control groups of killed labs; return the names of those labs."""
    removed = []
    for lab in sorted({group.name.rpartition("-")[0] for group in named(PREFIX)}):
        with suppress(LabError), lab_lock(lab):  # LabError: the lab is alive
            await remove_when_empty(f"{lab}-")
            removed.append(lab)
    return removed


def _mounted() -> dict[str, Path]:
    """Return the mount points of the hierarchies that systemd uses, by their names in /proc/self/cgroup."""
    found = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            found["" if kind == "cgroup2" else "name=systemd"] = Path(place)
    return found


def _own() -> list[Path]:
    """Return this process's groups in these hierarchies: cgroups(7), "/proc files"."""
    mounted = _mounted()
    groups = [line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines()]
    return [mounted[hierarchy] / path.lstrip("/") for hierarchy, path in groups if hierarchy in mounted]
