"""What becomes of each option of conntrackd.conf(5), as conntrackd 1.4.7 takes them.  Pure.

One table: docs/migration.md shows it, the parser takes from it which options have one value, the translation which
have an equivalent. A name says where the option stands: `Sync.Mode.CommitTimeout`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """What it means that an option has no exact equivalent."""

    LOST = "lost"
    DIFFERS = "differs"
    NOT_NEEDED = "not needed"


@dataclass(frozen=True, kw_only=True)
class Remark:
    """Something without an exact equivalent; line 0 stands for what the file does not have."""

    line: int
    option: str
    severity: Severity
    why: str


@dataclass(frozen=True)
class Section:
    """What it holds is translated, option by option."""


@dataclass(frozen=True)
class Key:
    """Becomes `key` of ftfw.toml."""

    key: str
    how: str


@dataclass(frozen=True)
class Without:
    """Has no equivalent."""

    severity: Severity
    why: str


Rule = Section | Key | Without

_LOST, _DIFFERS, _NOT_NEEDED = Severity
_BUFFER = Without(_NOT_NEEDED, "ftfw asks for socket buffers of 4 MiB itself")
_CHECKSUM = Without(_NOT_NEEDED, "every frame is sealed, and a damaged one is refused")
_PORT = "as it is; while both daemons run, ftfw needs another"
_COMMIT_TIMEOUT = Without(_DIFFERS, "a committed entry gets the time that its state has, as if a packet had just come")
_REFRESH_TIME = Without(_NOT_NEEDED, "nothing is repeated; `replication.scrub_interval_s` finds what differs")
_CACHE_TIMEOUT = Without(_NOT_NEEDED, "an entry goes when the active says so, or when a comparison shows it")
_EVENT_BUFFER = Key("kernel.event_buffer_bytes", "the largest, if it is more than ftfw's default of 64 MiB")
_LOG = Without(_DIFFERS, "ftfw logs to standard error: systemd puts it into the journal")

_UNICAST: Mapping[str, Rule] = {
    "IPv4_address": Key("link.bind", "as it is"),
    "IPv6_address": Key("link.bind", "as it is"),
    "IPv4_Destination_Address": Key("link.peers", "an array of one address"),
    "IPv6_Destination_Address": Key("link.peers", "an array of one address"),
    "Port": Key("link.port", _PORT),
    "Interface": Key("link.interface", "as it is"),
    "SndSocketBuffer": _BUFFER,
    "RcvSocketBuffer": _BUFFER,
    "Checksum": _CHECKSUM,
}

OPTIONS: Mapping[str, Rule] = {
    "Sync": Section(),
    "Sync.Mode": Section(),
    "Sync.Mode.DisableExternalCache": Key("standby.mode", '`yes` is `"hot"`, `no` is `"warm"`'),
    "Sync.Mode.DisableInternalCache": Without(_NOT_NEEDED, "an active keeps no copy of its kernel's table"),
    "Sync.Mode.ResendQueueSize": Without(
        _NOT_NEEDED, "a backup that was away for longer than frames are kept is compared, and gets what differs"
    ),
    "Sync.Mode.ACKWindowSize": Without(_NOT_NEEDED, "acknowledgements find their own pace"),
    "Sync.Mode.CommitTimeout": _COMMIT_TIMEOUT,
    "Sync.Mode.PurgeTimeout": Without(
        _NOT_NEEDED, "what is stale goes when the live active's snapshot is complete, and nothing before that"
    ),
    "Sync.Mode.StartupResync": Without(_NOT_NEEDED, "a backup takes a snapshot whenever it meets an active"),
    "Sync.Mode.RefreshTime": _REFRESH_TIME,
    "Sync.Mode.CacheTimeout": _CACHE_TIMEOUT,
    "Sync.CommitTimeout": _COMMIT_TIMEOUT,
    "Sync.RefreshTime": _REFRESH_TIME,
    "Sync.CacheTimeout": _CACHE_TIMEOUT,
    "Sync.Multicast": Section(),
    "Sync.Multicast.IPv4_address": Key("link.group", "as it is"),
    "Sync.Multicast.IPv6_address": Key("link.group", "as it is"),
    "Sync.Multicast.Group": Key("link.port", _PORT),
    "Sync.Multicast.IPv4_interface": Without(_NOT_NEEDED, "`link.interface` says it"),
    "Sync.Multicast.IPv6_interface": Without(_NOT_NEEDED, "`link.interface` says it"),
    "Sync.Multicast.Interface": Key("link.interface", "as it is; ftfw needs it"),
    "Sync.Multicast.SndSocketBuffer": _BUFFER,
    "Sync.Multicast.RcvSocketBuffer": _BUFFER,
    "Sync.Multicast.Checksum": _CHECKSUM,
    "Sync.UDP": Section(),
    **{f"Sync.UDP.{name}": rule for name, rule in _UNICAST.items()},
    "Sync.TCP": Section(),
    **{f"Sync.TCP.{name}": rule for name, rule in _UNICAST.items()},
    "Sync.Options": Section(),
    "Sync.Options.TCPWindowTracking": Without(_NOT_NEEDED, "window scale and flags are always replicated"),
    "Sync.Options.ExpectationSync": Key(
        "replicate.expectations", "`on` is `true`, a list an array, and nothing is `false`"
    ),
    "General": Section(),
    "General.Systemd": Without(_NOT_NEEDED, "nothing has to be switched on"),
    "General.Nice": Without(_NOT_NEEDED, "conntrackd ignores it, too; `Nice=` in the unit"),
    "General.HashSize": Without(_NOT_NEEDED, "memory grows with the entries"),
    "General.HashLimit": Without(
        _NOT_NEEDED, "memory grows with the entries; the kernel's `nf_conntrack_max` is the limit"
    ),
    "General.LogFile": _LOG,
    "General.Syslog": _LOG,
    "General.LockFile": Without(_NOT_NEEDED, "the control socket shows whether a daemon runs"),
    "General.UNIX": Without(_NOT_NEEDED, "`control.socket` has a default of its own"),
    "General.Family": Without(_NOT_NEEDED, "IPv4 and IPv6 are always replicated"),
    "General.NetlinkBufferSize": _EVENT_BUFFER,
    "General.NetlinkBufferSizeMaxGrowth": _EVENT_BUFFER,
    "General.SocketBufferSize": _EVENT_BUFFER,
    "General.SocketBufferSizeMaxGrowth": _EVENT_BUFFER,
    "General.SocketBufferSizeMaxGrown": _EVENT_BUFFER,
    "General.NetlinkOverrunResync": Without(_NOT_NEEDED, "an overrun is always followed by a comparison, at once"),
    "General.NetlinkEventsReliable": Without(
        _DIFFERS,
        "no packet waits for ftfw; events that found no room in its buffer cost a comparison with the kernel's table",
    ),
    "General.PollSecs": Without(_DIFFERS, "ftfw follows the kernel's events and never polls"),
    "General.EventIterationLimit": Without(_NOT_NEEDED, "ftfw takes turns by itself"),
    "General.Scheduler": Without(_LOST, "ftfw does not ask for it; `CPUSchedulingPolicy=` in the unit does"),
    "General.Filter": Section(),
    "General.Filter.Protocol": Key(
        "replicate.protocols", "`Accept` as a list; `Ignore` as all others that have a name"
    ),
    "General.Filter.Address": Key("replicate.addresses", "`Accept` as a list; `Ignore`: see below"),
    "General.Filter.State": Key("replicate.tcp_states", "`Accept` as a list; `Ignore` as all others"),
    "Helper": Without(
        _LOST, "ftfw has no helpers in user space: use the kernel's, or keep a conntrackd whose file has no `Sync`"
    ),
    "Stats": Without(_LOST, "ftfw collects no statistics: keep a conntrackd whose file has no `Sync`"),
}

HEADED = frozenset({"Mode", "Multicast", "UDP", "TCP", "Filter", "Protocol", "Address", "State"})
"""Names with words of their own before the braces."""

ADDRESSES = frozenset({"IPv4_address", "IPv6_address"})

SINGLE = (
    ADDRESSES | {name.rpartition(".")[2] for name, rule in OPTIONS.items() if not isinstance(rule, Section)} - HEADED
)
"""Names that take one value, or a block."""


def as_markdown() -> Iterator[str]:
    """Yield the table's rows for docs/migration.md."""
    for name, rule in OPTIONS.items():
        match rule:
            case Key(key=key, how=how):
                yield f"| `{name}` | `{key}` | {how} |"
            case Without(severity=severity, why=why):
                yield f"| `{name}` | {severity} | {why} |"
