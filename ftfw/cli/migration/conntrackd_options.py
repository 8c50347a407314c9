"""Lists the options of conntrackd.conf(5) (conntrackd 1.4.7), and their equivalents in ftfw.  Pure.

docs/migration.md shows this table; the parser reads from it which options have one value, and the translation which
have an equivalent.  An option's name includes its sections: `Sync.Mode.CommitTimeout`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """Names the consequence for an option without an exact equivalent."""

    LOST = "lost"
    DIFFERS = "differs"
    NOT_NEEDED = "not needed"


@dataclass(frozen=True, kw_only=True)
class Remark:
    """Reports an option without an exact equivalent; line 0 is for what the file does not contain."""

    line: int
    option: str
    severity: Severity
    why: str


@dataclass(frozen=True)
class TranslatedSection:
    """Marks a section whose options are translated one by one."""


@dataclass(frozen=True)
class TranslatedOption:
    """Names the key of ftfw.toml that an option becomes."""

    key: str
    how: str


@dataclass(frozen=True)
class UntranslatedOption:
    """Says why an option has no equivalent."""

    severity: Severity
    why: str


OptionRule = TranslatedSection | TranslatedOption | UntranslatedOption

_LOST, _DIFFERS, _NOT_NEEDED = Severity
_BUFFER = UntranslatedOption(_NOT_NEEDED, "ftfw requests socket buffers of 4 MiB itself")
_CHECKSUM = UntranslatedOption(_NOT_NEEDED, "every frame is authenticated, and a damaged one is dropped")
_PORT = "unchanged; while both daemons run, ftfw needs another port"
_COMMIT_TIMEOUT = UntranslatedOption(
    _DIFFERS, "a committed entry gets the full timeout of its state, as if a packet had just arrived"
)
_REFRESH_TIME = UntranslatedOption(
    _NOT_NEEDED, "ftfw repeats nothing; a compare every `replication.scrub_interval_s` finds what differs"
)
_CACHE_TIMEOUT = UntranslatedOption(
    _NOT_NEEDED, "a backup removes an entry when the active deletes it, or when a compare shows that it is gone"
)
_EVENT_BUFFER = TranslatedOption(
    "kernel.event_buffer_bytes", "the largest of them, if it is larger than ftfw's default of 64 MiB"
)
_LOG = UntranslatedOption(_DIFFERS, "ftfw logs to standard error, which systemd writes to the journal")

_UNICAST: Mapping[str, OptionRule] = {
    "IPv4_address": TranslatedOption("link.bind", "unchanged"),
    "IPv6_address": TranslatedOption("link.bind", "unchanged"),
    "IPv4_Destination_Address": TranslatedOption("link.peers", "an array of one address"),
    "IPv6_Destination_Address": TranslatedOption("link.peers", "an array of one address"),
    "Port": TranslatedOption("link.port", _PORT),
    "Interface": TranslatedOption("link.interface", "unchanged"),
    "SndSocketBuffer": _BUFFER,
    "RcvSocketBuffer": _BUFFER,
    "Checksum": _CHECKSUM,
}

OPTIONS: Mapping[str, OptionRule] = {
    "Sync": TranslatedSection(),
    "Sync.Mode": TranslatedSection(),
    "Sync.Mode.DisableExternalCache": TranslatedOption("standby.mode", '`yes` is `"hot"`, `no` is `"warm"`'),
    "Sync.Mode.DisableInternalCache": UntranslatedOption(_NOT_NEEDED, "an active keeps no copy of its kernel's table"),
    "Sync.Mode.ResendQueueSize": UntranslatedOption(
        _NOT_NEEDED, "a backup that misses more frames than are kept is compared with the active, and gets what differs"
    ),
    "Sync.Mode.ACKWindowSize": UntranslatedOption(_NOT_NEEDED, "ftfw decides itself when to acknowledge"),
    "Sync.Mode.CommitTimeout": _COMMIT_TIMEOUT,
    "Sync.Mode.PurgeTimeout": UntranslatedOption(
        _NOT_NEEDED, "stale entries are removed when a live active's snapshot is complete, and none before that"
    ),
    "Sync.Mode.StartupResync": UntranslatedOption(_NOT_NEEDED, "a backup gets a snapshot whenever it finds an active"),
    "Sync.Mode.RefreshTime": _REFRESH_TIME,
    "Sync.Mode.CacheTimeout": _CACHE_TIMEOUT,
    "Sync.CommitTimeout": _COMMIT_TIMEOUT,
    "Sync.RefreshTime": _REFRESH_TIME,
    "Sync.CacheTimeout": _CACHE_TIMEOUT,
    "Sync.Multicast": TranslatedSection(),
    "Sync.Multicast.IPv4_address": TranslatedOption("link.group", "unchanged"),
    "Sync.Multicast.IPv6_address": TranslatedOption("link.group", "unchanged"),
    "Sync.Multicast.Group": TranslatedOption("link.port", _PORT),
    "Sync.Multicast.IPv4_interface": UntranslatedOption(_NOT_NEEDED, "`link.interface` replaces it"),
    "Sync.Multicast.IPv6_interface": UntranslatedOption(_NOT_NEEDED, "`link.interface` replaces it"),
    "Sync.Multicast.Interface": TranslatedOption("link.interface", "unchanged; ftfw requires it"),
    "Sync.Multicast.SndSocketBuffer": _BUFFER,
    "Sync.Multicast.RcvSocketBuffer": _BUFFER,
    "Sync.Multicast.Checksum": _CHECKSUM,
    "Sync.UDP": TranslatedSection(),
    **{f"Sync.UDP.{name}": rule for name, rule in _UNICAST.items()},
    "Sync.TCP": TranslatedSection(),
    **{f"Sync.TCP.{name}": rule for name, rule in _UNICAST.items()},
    "Sync.Options": TranslatedSection(),
    "Sync.Options.TCPWindowTracking": UntranslatedOption(_NOT_NEEDED, "window scale and flags are always replicated"),
    "Sync.Options.ExpectationSync": TranslatedOption(
        "replicate.expectations", "`on` is `true`, a list an array, and nothing is `false`"
    ),
    "General": TranslatedSection(),
    "General.Systemd": UntranslatedOption(_NOT_NEEDED, "always on"),
    "General.Nice": UntranslatedOption(_NOT_NEEDED, "conntrackd ignores it as well; use `Nice=` in the unit"),
    "General.HashSize": UntranslatedOption(_NOT_NEEDED, "memory grows with the entries"),
    "General.HashLimit": UntranslatedOption(
        _NOT_NEEDED, "memory grows with the entries; the kernel's `nf_conntrack_max` is the limit"
    ),
    "General.LogFile": _LOG,
    "General.Syslog": _LOG,
    "General.LockFile": UntranslatedOption(_NOT_NEEDED, "the control socket shows whether a daemon runs"),
    "General.UNIX": UntranslatedOption(_NOT_NEEDED, "`control.socket` has a default of its own"),
    "General.Family": UntranslatedOption(_NOT_NEEDED, "IPv4 and IPv6 are always replicated"),
    "General.NetlinkBufferSize": _EVENT_BUFFER,
    "General.NetlinkBufferSizeMaxGrowth": _EVENT_BUFFER,
    "General.SocketBufferSize": _EVENT_BUFFER,
    "General.SocketBufferSizeMaxGrowth": _EVENT_BUFFER,
    "General.SocketBufferSizeMaxGrown": _EVENT_BUFFER,
    "General.NetlinkOverrunResync": UntranslatedOption(
        _NOT_NEEDED, "an overrun is always followed by a compare, at once"
    ),
    "General.NetlinkEventsReliable": UntranslatedOption(
        _DIFFERS,
        "packets never wait for ftfw; when events are lost, ftfw compares the backups with the kernel's table",
    ),
    "General.PollSecs": UntranslatedOption(_DIFFERS, "ftfw reads the kernel's events and never polls"),
    "General.EventIterationLimit": UntranslatedOption(_NOT_NEEDED, "ftfw bounds its batches itself"),
    "General.Scheduler": UntranslatedOption(_LOST, "ftfw does not request it; use `CPUSchedulingPolicy=` in the unit"),
    "General.Filter": TranslatedSection(),
    "General.Filter.Protocol": TranslatedOption(
        "replicate.protocols", "`Accept` as a list; `Ignore` as all others that have a name"
    ),
    "General.Filter.Address": TranslatedOption("replicate.addresses", "`Accept` as a list; `Ignore`: see below"),
    "General.Filter.State": TranslatedOption("replicate.tcp_states", "`Accept` as a list; `Ignore` as all others"),
    "Helper": UntranslatedOption(
        _LOST, "ftfw has no helpers in user space: use the kernel's, or keep a conntrackd whose file has no `Sync`"
    ),
    "Stats": UntranslatedOption(_LOST, "ftfw collects no statistics: keep a conntrackd whose file has no `Sync`"),
}

HEADED = frozenset({"Mode", "Multicast", "UDP", "TCP", "Filter", "Protocol", "Address", "State"})
"""Lists names that have words of their own before the braces."""

ADDRESSES = frozenset({"IPv4_address", "IPv6_address"})

SINGLE = (
    ADDRESSES
    | {name.rpartition(".")[2] for name, rule in OPTIONS.items() if not isinstance(rule, TranslatedSection)} - HEADED
)
"""Lists names that take one value, or a block."""
