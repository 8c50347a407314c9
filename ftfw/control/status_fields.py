"""Declares each field of `ftfw status --json`: its meaning, its colour on a terminal, and its Prometheus metric.

`ftfw status` prints, and the metrics endpoint exposes, what this table says; tests compare docs/commands.md,
docs/metrics.md and the status of a running daemon with it.  A new field is declared here and filled in
`ftfw.daemon.status`, and appears in all of these.  Pure, and light to import: a command reads it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from enum import Enum
from functools import partial
from typing import Any, Final, Literal

Status = dict[str, Any]
Parts = tuple[str, ...]


class Grade(Enum):
    """Names how good a value is."""

    GOOD = "good"
    DOUBTFUL = "doubtful"
    BAD = "bad"


@dataclass(frozen=True, kw_only=True)
class StatusMetric:
    """Declares the metric made from a field.

    `name` is without the suffix `_total` of counters.  Where `text` is None, the field's meaning is the help text.
    `read` makes the sample from the field's value and from the mapping that holds it; a result that is neither a number
    nor a boolean gives no sample.
    """

    kind: Literal["gauge", "counter"]
    name: str
    text: str | None
    read: Callable[[Any, Status], Any]


def _no_grade(_value: Any) -> Grade | None:
    return None


@dataclass(frozen=True)
class StatusField:
    """Declares a field of the status.

    `path` leads to it: `kernel.events`; `peers[].name` in each element of an array; `kernel.dropped{reason}` for a
    mapping whose keys are reasons.  `grade` judges its value, or each value of a mapping; a value judged None has no
    colour.  `ftfw status` prints a field `for_machines` with --json only.
    """

    path: str
    meaning: str
    _: KW_ONLY
    grade: Callable[[Any], Grade | None] = _no_grade
    harmless: Parts = ()  # keys of a mapping whose values are not judged
    metric: StatusMetric | None = None
    for_machines: bool = False

    @property
    def parts(self) -> Parts:
        """Return the keys that lead to the field; that of an array ends in `[]`."""
        return tuple(re.sub(r"\{.*\}", "", self.path).split("."))

    @property
    def key_label(self) -> str | None:
        """Return the meaning of the mapping's keys; None where the field is no mapping."""
        found = re.search(r"\{(.*)\}", self.path)
        return found[1] if found else None

    @property
    def help_text(self) -> str:
        """Return the help text of the metric."""
        text = self.metric.text if self.metric is not None else None
        return re.sub(r"^true\b", "1", text or self.meaning).replace("`", "")

    @property
    def labels(self) -> Parts:
        """Return the names of the metric's labels."""
        labels = ARRAY_LABELS.get(self.parts[0], ())
        return labels if self.key_label is None else (*labels, self.key_label)


# Of an array's elements; `metric_families` gives them values.
ARRAY_LABELS: Final[dict[str, Parts]] = {"peers[]": ("peer",), "links[]": ("link", "name")}


def _wanted(wanted: bool, value: Any) -> Grade | None:
    if not isinstance(value, bool):
        return None
    return Grade.GOOD if value is wanted else Grade.BAD


def _late(doubtful_s: float, bad_s: float, value: Any) -> Grade | None:
    if not isinstance(value, int | float):
        return None
    return Grade.BAD if value >= bad_s else Grade.DOUBTFUL if value >= doubtful_s else Grade.GOOD


def _unless_zero(value: Any) -> Grade | None:
    return Grade.DOUBTFUL if isinstance(value, int) and value else None


def _if_text(grade: Grade, value: Any) -> Grade | None:
    return grade if isinstance(value, str) else None


def _bad_unless_true(value: Any) -> Grade | None:
    return Grade.BAD if value is False else None


def _open(value: Any) -> Grade | None:
    if not isinstance(value, str):
        return None
    return Grade.GOOD if value == "open" else Grade.BAD


def _fifo_works(value: Any, keepalived: Status) -> bool | None:
    return None if value is None else value == "open" and keepalived.get("fifo_writer") is True


def _as_it_is(value: Any, _holder: Status) -> Any:
    return value


def _gauge(name: str, text: str | None = None, read: Callable[[Any, Status], Any] = _as_it_is) -> StatusMetric:
    return StatusMetric(kind="gauge", name=name, text=text, read=read)


def _counter(name: str) -> StatusMetric:
    return StatusMetric(kind="counter", name=name, text=None, read=_as_it_is)


FIELDS: Final = (
    StatusField("node", "the name of this node (`node.name`)"),
    StatusField(
        "role",
        "`active` or `backup`: the old role until a change of role is complete",
        metric=_gauge("ftfw_active", "1 on an active, 0 on a backup", lambda value, _: value == "active"),
    ),
    StatusField(
        "ready",
        "true if this node may take over, or is active",
        grade=partial(_wanted, True),
        metric=_gauge("ftfw_ready"),
    ),
    StatusField(
        "synced",
        "true on a backup whose store is up to date, and on an active whose live backups all are;"
        " null on an active that hears no backup",
        grade=partial(_wanted, True),
        metric=_gauge("ftfw_synced", "1 if in sync; absent on an active that hears no backup"),
    ),
    StatusField(
        "why_not_synced",
        "the reason why `synced` is not true, in words; null if it is",
        grade=partial(_if_text, Grade.DOUBTFUL),
    ),
    StatusField(
        "conflict",
        "true if more than one node is active",
        grade=partial(_wanted, False),
        metric=_gauge("ftfw_conflict"),
    ),
    StatusField(
        "flows",
        "flows in the store (backup), or flows of this kernel that pass the filter (active)",
        metric=_gauge(
            "ftfw_flows", "flows in the store (backup), or that passed the filter when last counted (active)"
        ),
    ),
    StatusField("expectations", "expectations, counted in the same way as flows", metric=_gauge("ftfw_expectations")),
    StatusField("mode", "the standby mode of this node: `warm` or `hot`"),
    StatusField("version", "the version of ftfw"),
    StatusField("peers[].name", "the name of the peer"),
    StatusField(
        "peers[].role",
        "the role that the peer has reported",
        metric=_gauge(
            "ftfw_peer_active", "1 if the peer reports that it is active", lambda value, _: value == "active"
        ),
    ),
    StatusField(
        "peers[].last_seen_s",
        "seconds since a frame of the peer arrived",
        grade=partial(_late, 1.0, 3.0),
        metric=_gauge("ftfw_peer_silence_seconds"),
    ),
    StatusField(
        "peers[].lag_s",
        "active: age in seconds of the oldest frame that the backup has not acknowledged",
        grade=partial(_late, 0.1, 1.0),
        metric=_gauge("ftfw_peer_lag_seconds"),
    ),
    StatusField("peers[].acked", "active: the number of the last frame that the backup has acknowledged"),
    StatusField(
        "peers[].heard_for_s",
        "seconds from the first frame of the peer in its present role to its last one",
        for_machines=True,
    ),
    StatusField(
        "peers[].facts{fact}",
        "what the peer has reported about its host, `age_s` seconds ago; null before its first report",
        for_machines=True,
    ),
    StatusField("link.sent", "frames sent, over all links together"),
    StatusField("link.received", "frames received, over all links together"),
    StatusField("link.bytes_sent", "bytes of the frames sent"),
    StatusField("link.bytes_received", "bytes of the frames received"),
    StatusField(
        "link.dropped{reason}",
        "frames dropped on all links together, by reason",
        grade=_unless_zero,
        harmless=("duplicate",),
    ),
    StatusField("links[].name", "the transport of the link with its interface or address"),
    StatusField(
        "links[].up",
        "true if frames go out over the link and frames of a peer arrive on it",
        grade=partial(_wanted, True),
        metric=_gauge("ftfw_link_up"),
    ),
    StatusField(
        "links[].trouble",
        "why the link is down, and the remedy; null while it is up",
        grade=partial(_if_text, Grade.DOUBTFUL),
    ),
    StatusField("links[].sent", "frames sent over the link", metric=_counter("ftfw_link_sent_frames")),
    StatusField("links[].received", "frames received over the link", metric=_counter("ftfw_link_received_frames")),
    StatusField("links[].bytes_sent", "bytes of the frames sent", metric=_counter("ftfw_link_sent_bytes")),
    StatusField("links[].bytes_received", "bytes of the frames received", metric=_counter("ftfw_link_received_bytes")),
    StatusField(
        "links[].dropped{reason}",
        "frames dropped on the link, by reason",
        grade=_unless_zero,
        harmless=("duplicate",),
        metric=_counter("ftfw_link_dropped"),
    ),
    StatusField("stream.state", "backup: the state of replication, see [the protocol](protocol.md)"),
    StatusField("stream.incoming", "backup: entries that the snapshot under way has brought; null without one"),
    StatusField(
        "stream.behind",
        "backup: frames that the active has sent and this node has not applied",
        grade=_unless_zero,
        metric=_gauge("ftfw_stream_behind_frames"),
    ),
    StatusField(
        "stream.waiting",
        "backup: frames that have arrived and are not applied yet: they wait behind a gap, or for work on the store",
        metric=_gauge("ftfw_stream_waiting_frames"),
    ),
    StatusField(
        "stream.waiting_bytes",
        "backup: memory that these frames take, about, in bytes",
        metric=_gauge("ftfw_stream_waiting_bytes"),
    ),
    StatusField(
        "stream.gaps",
        "backup: gaps in the stream that could not be filled",
        grade=_unless_zero,
        metric=_counter("ftfw_stream_gaps"),
    ),
    StatusField(
        "stream.repeated",
        "backup: frames of the stream that had arrived before",
        metric=_counter("ftfw_stream_repeated_frames"),
    ),
    StatusField(
        "stream.snapshots",
        "backup: snapshots of the whole table completed",
        metric=_counter("ftfw_stream_snapshots"),
    ),
    StatusField(
        "stream.stale",
        "backup: entries removed at the end of a snapshot because it did not contain them",
        metric=_counter("ftfw_stream_stale_entries"),
    ),
    StatusField(
        "stream.compared",
        "compares of a store with the active's table",
        metric=_counter("ftfw_stream_compares"),
    ),
    StatusField(
        "stream.repaired{kind}",
        "backup: entries repaired after a compare although the store was in sync: `missing`, `stale` or `different`",
        grade=_unless_zero,
        metric=_counter("ftfw_stream_repaired_entries"),
    ),
    StatusField(
        "stream.kept_bytes",
        "active: bytes of the frames kept until every live backup has acknowledged them",
        metric=_gauge("ftfw_stream_kept_bytes"),
    ),
    StatusField("stream.resent", "active: frames sent again", metric=_counter("ftfw_stream_resent_frames")),
    StatusField(
        "stream.outrun",
        "active: frames discarded before every live backup had acknowledged them",
        grade=_unless_zero,
        metric=_counter("ftfw_stream_outrun_frames"),
    ),
    StatusField(
        "stream.challenges",
        "challenges sent to nodes that appear with a new epoch",
        metric=_counter("ftfw_challenges"),
    ),
    StatusField("stream.responses", "responses sent to challenges of other nodes", metric=_counter("ftfw_responses")),
    StatusField("stream.proofs", "epochs of other nodes accepted after a response", metric=_counter("ftfw_proofs")),
    StatusField(
        "stream.resumed",
        "times when another node was resumed from a snapshot of its memory, and was asked to begin a new epoch",
        metric=_counter("ftfw_resumed"),
    ),
    StatusField("kernel.entries", "flows in this kernel, replicated or not", metric=_gauge("ftfw_conntrack_entries")),
    StatusField(
        "kernel.entries_max",
        "`nf_conntrack_max`: flows that this kernel accepts",
        metric=_gauge("ftfw_conntrack_entries_limit"),
    ),
    StatusField("kernel.events", "events read from the kernel", metric=_counter("ftfw_events")),
    StatusField(
        "kernel.overruns",
        "times when the kernel discarded events because the buffer for them was full",
        grade=_unless_zero,
        metric=_counter("ftfw_overruns"),
    ),
    StatusField(
        "kernel.inject_failed{reason}",
        "entries that this kernel refused since the daemon started, by reason",
        grade=_unless_zero,
        metric=_counter("ftfw_inject_failed"),
    ),
    StatusField(
        "kernel.dropped{reason}",
        "messages of the kernel or of the stream dropped, by reason",
        grade=_unless_zero,
        metric=_counter("ftfw_messages_dropped"),
    ),
    StatusField(
        "last_commit.seconds",
        "duration of the last commit in seconds",
        metric=_gauge("ftfw_last_commit_seconds"),
    ),
    StatusField(
        "last_commit.created",
        "entries that the last commit created",
        metric=_gauge("ftfw_last_commit_created_entries"),
    ),
    StatusField(
        "last_commit.updated",
        "entries that the last commit updated",
        metric=_gauge("ftfw_last_commit_updated_entries"),
    ),
    StatusField(
        "last_commit.deleted",
        "entries that the last commit deleted to create them again",
        metric=_gauge("ftfw_last_commit_deleted_entries"),
    ),
    StatusField(
        "last_commit.failed{reason}",
        "entries that this kernel refused in the last commit, by reason",
        grade=_unless_zero,
        metric=_gauge("ftfw_last_commit_failed_entries"),
    ),
    StatusField(
        "last_commit.otherwise{reason}",
        "entries that the last commit created, but not as the store has them, by reason",
        grade=_unless_zero,
        metric=_gauge("ftfw_last_commit_otherwise_entries"),
    ),
    StatusField(
        "keepalived.fifo",
        "`open`, or what is wrong with the FIFO, in words; null without `keepalived.fifo`",
        grade=_open,
        metric=_gauge(
            "ftfw_keepalived_fifo_open", "1 if keepalived has the FIFO open for writing and ftfw reads it", _fifo_works
        ),
    ),
    StatusField("keepalived.fifo_writer", "true if a process has the FIFO open for writing", grade=_bad_unless_true),
    StatusField(
        "keepalived.instances{instance}",
        "the last state that keepalived reported for each instance and group",
    ),
    StatusField("keepalived.addresses_here", "those of `keepalived.addresses` that are on this host"),
    StatusField(
        "keepalived.disagreement",
        "how the role disagrees with the virtual addresses on this host, in words; null if it does not",
        grade=partial(_if_text, Grade.BAD),
        metric=_gauge(
            "ftfw_keepalived_disagreement",
            "1 if the role disagrees with the virtual addresses on this host",
            lambda value, _: value is not None,
        ),
    ),
    StatusField(
        "keepalived.dropped{reason}",
        "notifications that were not counted, by reason",
        grade=_unless_zero,
        harmless=("no_state", "not_listed", "hook_overruled", "hook_overtaken"),
        metric=_counter("ftfw_keepalived_dropped"),
    ),
    StatusField("gate.interfaces", "the interfaces of the gate (`takeover.gate_interfaces`)"),
    StatusField("gate.shut", "true while the gate holds traffic back", metric=_gauge("ftfw_gate_shut")),
    StatusField("gate.dropped", "packets that the gate has dropped", metric=_counter("ftfw_gate_dropped_packets")),
    StatusField("gate.last_shut_s", "seconds since the daemon shut the gate; null if it never did"),
    StatusField("gate.last_opened_s", "seconds since the daemon opened the gate; null if it never did"),
    StatusField(
        "gate.failed{reason}",
        "failures of the gate, by reason",
        grade=_unless_zero,
        metric=_counter("ftfw_gate_failed"),
    ),
    StatusField(
        "metrics.trouble",
        "why Prometheus cannot read the metrics, in words; null if it can",
        grade=partial(_if_text, Grade.DOUBTFUL),
    ),
    StatusField(
        "metrics.failed{reason}",
        "failed attempts to listen on `metrics.listen`, by reason",
        grade=_unless_zero,
    ),
    StatusField("facts{fact}", "what this node reports to the others about its host", for_machines=True),
)

_BY_PARTS: Final = {field.parts: field for field in FIELDS}


def field_at(parts: Parts) -> StatusField | None:
    """Return the field at these keys, or the mapping that the last of them is a key of; None if there is neither."""
    field = _BY_PARTS.get(parts)
    if field is None and (above := _BY_PARTS.get(parts[:-1])) is not None and above.key_label is not None:
        return above
    return field


def grade(parts: Parts, value: object) -> Grade | None:
    """Judge the value at these keys of a status; None if it is neither good nor bad, or not declared."""
    field = field_at(parts)
    if field is None or (field.key_label is not None and parts[-1].endswith(field.harmless)):
        return None
    return field.grade(value)
