"""Model flows and expectations as typed objects for people: `show`, tests, log.  The hot path makes none of these."""

from dataclasses import asdict, dataclass, field
from typing import Any

Tuple = dict[str, str | int]
"""One direction of a flow: src, dst, and sport, dport or icmp_id, icmp_type, icmp_code or src_key, dst_key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Holds a decoded conntrack entry.  A field is None if the entry lacks the attribute."""

    family: str
    protocol: str
    original: Tuple
    reply: Tuple
    zone: int | None = None
    zone_original: int | None = None
    zone_reply: int | None = None
    status: tuple[str, ...] = ()
    timeout: int | None = None  # seconds
    tcp: dict[str, Any] | None = None  # state, and per direction window_scale and flags
    sctp: dict[str, Any] | None = None  # state and vtags
    mark: int | None = None
    labels: str | None = None  # hexadecimal
    helper: str | None = None
    helper_info: str | None = None  # hexadecimal
    master: Tuple | None = None
    seq_adjust: dict[str, dict[str, int]] | None = None  # direction → position, before, after
    synproxy: dict[str, int] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields that are not None, ready for JSON."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """Holds a decoded expectation: the flow that is expected, and the attributes that it will get."""

    family: str
    protocol: str
    expected: Tuple
    mask: Tuple
    master: Tuple
    timeout: int | None = None  # seconds
    flags: tuple[str, ...] = ()
    class_: int = field(default=0)
    helper: str | None = None
    function: str | None = None
    nat: Tuple | None = None
    zone: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields that are not None, ready for JSON."""
        return {
            "class" if name == "class_" else name: value for name, value in asdict(self).items() if value is not None
        }
