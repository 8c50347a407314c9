"""The protocol between the lab and its agents: JSON lines over the agent's standard input and output.

One command at a time; the agent answers with any number of reports and one `Done`.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any


class WireError(Exception):
    """A line that is none of this protocol."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What an agent is to do; `operation` is one of agent.OPERATIONS."""

    operation: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Report:
    """How one flow went through one phase."""

    flow: str
    alive: bool
    pause_s: float | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Done:
    """The end of a command; an error says why it could not be carried out."""

    error: str = ""


Message = Command | Report | Done
_KINDS: dict[str, type[Command] | type[Report] | type[Done]] = {
    "command": Command,
    "report": Report,
    "done": Done,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def encode(message: Message) -> bytes:
    """Return the message as one line."""
    return json.dumps({"kind": _NAMES[type(message)], **asdict(message)}).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Return the message of one line; WireError for anything else."""
    try:
        fields = json.loads(line)
        return _KINDS[fields.pop("kind")](**fields)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise WireError(f"not a message of the lab: {line[:200]!r}") from error
