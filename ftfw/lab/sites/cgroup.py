"""Control groups: each container that boots is to have one of its own.

Without, those that were started from the same group share one, and a systemd that stops a unit removes the unit's group
from under another systemd that is just starting its own of that name.
"""

import os
from contextlib import suppress
from pathlib import Path

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


def remove(prefix: str) -> bool:
    """Remove the groups whose names begin with this; return whether none is left: processes must have left first."""
    groups = [group for own in _own() for group in own.glob(f"{prefix}*/")]
    for group in groups:
        for folder, _, _ in os.walk(group, topdown=False):
            with suppress(OSError):  # busy, or its systemd was faster
                Path(folder).rmdir()
    return not any(group.exists() for group in groups)


def _own() -> list[Path]:
    """Return this process's groups in those hierarchies that systemd keeps its units in: cgroups(7), "/proc files"."""
    mounted = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            mounted["" if kind == "cgroup2" else "name=systemd"] = place
    groups = [line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines()]
    return [Path(mounted[hierarchy] + path) for hierarchy, path in groups if hierarchy in mounted]
