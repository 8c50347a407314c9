"""Plays the scenarios of this folder.  Each line of a file is a step or a check; `#` begins a comment.

nodes NAME ROLE, NAME ROLE …     begin; the first active has the traffic
pass SECONDS                     time passes
change N                         N changes in the kernel of the node with the traffic
unseen N                         N changes that no event tells
overrun N                        N changes whose events are lost, and the active notices it
crash NAME / start NAME ROLE     the process ends, or begins with nothing in memory
promote NAME / demote NAME       a change of role; promoted, the node has the traffic
cut NAME NAME / heal             no frame gets from the first to the second; all frames do again
lose N of NAME                   the next N frames that NAME sends are lost
keys NAME KEY [KEY]              `old` and `new`; the first one seals
remember NAME / resume NAME      a snapshot of the memory is taken; the node goes on from it
replay                           every frame that was ever sent comes to every node
compare NAME / resync NAME       an administrator's commands on a backup
until NAME PROPERTY              time passes until that is true of the backup; five seconds at most
check NAME PROPERTY [VALUE]      see CHECKS
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scenarios.cluster import KEYS, Cluster, Node

FOLDER = Path(__file__).parent
UNTIL_S = 5.0

BACKUP: dict[str, Callable[[Cluster, Node], bool]] = {
    "in sync": lambda cluster, node: node.backup.synced(cluster.now),
    "not in sync": lambda cluster, node: not node.backup.synced(cluster.now),
    "holds the table": lambda cluster, node: cluster.holds_the_table(node.name),
    "in a snapshot": lambda _, node: node.backup.store.in_snapshot,
    "comparing": lambda _, node: node.backup.state.value == "comparing",
    "ready": lambda cluster, node: node.backup.ready(cluster.now),
    "not ready": lambda cluster, node: not node.backup.ready(cluster.now),
}
NODE: dict[str, Callable[[Cluster, Node], bool]] = {
    **BACKUP,
    "knows that all are in sync": lambda cluster, node: node.active.synced(cluster.now) is True,
    "in conflict": lambda cluster, node: node.member.peers.conflict(node.member.role, cluster.now),
    "not in conflict": lambda cluster, node: not node.member.peers.conflict(node.member.role, cluster.now),
}
NUMBERS: dict[str, Callable[[Node], int]] = {
    "snapshots": lambda node: node.backup.snapshots,
    "compared": lambda node: node.backup.compared,
    "gaps": lambda node: node.backup.gaps,
    "repaired": lambda node: node.backup.store.repaired.total(),
    "resent": lambda node: node.active.resent,
    "proofs": lambda node: node.freshness.counts["proofs"],
    "resumed": lambda node: node.freshness.counts["resumed"],
}


def unseen(cluster: Cluster, count: str) -> None:
    cluster.change(int(count))
    cluster.table.drop_pending()


def overrun(cluster: Cluster, count: str) -> None:
    unseen(cluster, count)
    cluster.nodes[cluster.primary].active.lose(cluster.now)


def crash(cluster: Cluster, name: str) -> None:
    cluster.nodes[name].up = False


def promote(cluster: Cluster, name: str) -> None:
    cluster.nodes[name].promote(cluster.now, cluster.known)
    cluster.primary = name


def lose(cluster: Cluster, count: str, _of: str, name: str) -> None:
    cluster.to_lose[name] += int(count)


def keys(cluster: Cluster, name: str, *given: str) -> None:
    node = cluster.nodes[name]
    node.keys = [KEYS[key] for key in given]
    node.freshness.rekey(node.keys)


def until(cluster: Cluster, name: str, *words: str) -> None:
    what, end = " ".join(words), cluster.now + UNTIL_S
    while not BACKUP[what](cluster, cluster.nodes[name]):
        assert cluster.now < end, f"{name} is not {what} within {UNTIL_S} s"
        cluster.step()


def check(cluster: Cluster, name: str, *words: str) -> None:
    node, what = cluster.nodes[name], " ".join(words)
    if what.split()[0] in NUMBERS:
        number, expected = words
        found = NUMBERS[number](node)
        assert found == int(expected), f"{name}: {number} is {found}"
    elif what.startswith("refuses "):
        assert node.refused[what.removeprefix("refuses ")], f"{name} has refused {dict(node.refused)}"
    elif what.startswith("says "):
        assert what.removeprefix("says ") in str(node.backup.why_not(cluster.now))
    else:
        assert NODE[what](cluster, node), f"{name} is not: {what}"


STEPS: dict[str, Callable[..., None]] = {
    "pass": lambda cluster, seconds: cluster.pass_(float(seconds)),
    "change": lambda cluster, count: cluster.change(int(count)),
    "unseen": unseen,
    "overrun": overrun,
    "crash": crash,
    "start": lambda cluster, name, role: cluster.nodes[name].start(role, cluster.now),
    "promote": promote,
    "demote": lambda cluster, name: cluster.nodes[name].stand_by(cluster.now),
    "cut": lambda cluster, one, other: cluster.blocked.add((one, other)),
    "heal": lambda cluster: cluster.blocked.clear(),
    "lose": lose,
    "keys": keys,
    "remember": lambda cluster, name: cluster.nodes[name].remember(),
    "resume": lambda cluster, name: cluster.nodes[name].resume(),
    "replay": lambda cluster: cluster.replay(),
    "compare": lambda cluster, name: cluster.nodes[name].backup.request_compare(cluster.now),
    "resync": lambda cluster, name: cluster.nodes[name].backup.request_snapshot(cluster.now),
    "until": until,
    "check": check,
}


def play(text: str) -> None:
    cluster: Cluster | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        said = line.partition("#")[0].strip()
        if said.startswith("nodes "):
            cluster = Cluster(dict(node.split() for node in said.removeprefix("nodes ").split(", ")))
        elif said:
            assert cluster is not None, "no nodes yet"
            verb, *words = said.split()
            try:
                STEPS[verb](cluster, *words)
            except Exception as error:
                error.add_note(f"line {number}: {said} ({cluster.now - 100:.2f} s)")
                raise


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.txt")))
def test_scenario(name: str) -> None:
    play((FOLDER / f"{name}.txt").read_text())


def test_a_wrong_step_is_told_with_its_line() -> None:
    with pytest.raises(AssertionError, match="fw2: snapshots is 1") as caught:
        play("nodes fw1 active, fw2 backup\n\npass 1\ncheck fw2 snapshots 7\n")
    assert caught.value.__notes__ == ["line 4: check fw2 snapshots 7 (1.00 s)"]
