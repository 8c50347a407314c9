"""Defines the protocol between the lab and its agents: JSON lines over the agent's standard input and output.

One command at a time; the agent answers with any number of reports and one `CommandDone`.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any


class AgentMessageError(Exception):
    """Raised if a line is not a message of this protocol."""


@dataclass(frozen=True, kw_only=True)
class AgentCommand:
    """Names an operation that an agent is to carry out; `operation` is a key of agent.OPERATIONS."""

    operation: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FlowReport:
    """Reports how one flow passed one phase; `pause_s` is in seconds."""

    flow: str
    alive: bool
    pause_s: float | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class CommandDone:
    """Ends the answers to a command; an error says why the agent could not carry it out."""

    error: str = ""


Message = AgentCommand | FlowReport | CommandDone
_KINDS: dict[str, type[AgentCommand] | type[FlowReport] | type[CommandDone]] = {
    "command": AgentCommand,
    "report": FlowReport,
    "done": CommandDone,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def encode(message: Message) -> bytes:
    """Return the message as one line."""
    return json.dumps({"kind": _NAMES[type(message)], **asdict(message)}).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Return the message in one line. Raises AgentMessageError if the line is not a message."""
    try:
        fields = json.loads(line)
        return _KINDS[fields.pop("kind")](**fields)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise AgentMessageError(f"not a message of the lab: {line[:200]!r}") from error
