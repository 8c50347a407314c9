"""The configuration file: TOML in, frozen and validated models out.

`load` either returns a `Config` on which everything else can rely, or raises `ConfigError`. What a field
accepts is said once, in its `description`, which the messages repeat.
"""

from __future__ import annotations

import socket
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from ftfw.config import value_types as values
from ftfw.config.config_errors import ConfigError, explain
from ftfw.config.default_paths import DEFAULT_SOCKET
from ftfw.config.value_types import Address, Endpoint, Mark, Network, PortRange

__all__ = [
    "Address",
    "Config",
    "ConfigError",
    "Endpoint",
    "Link",
    "Mark",
    "MulticastLink",
    "Network",
    "PortRange",
    "UnicastLink",
    "load",
    "require_complete",
]

AbsolutePath = Annotated[Path, PlainValidator(values.absolute_path)]
HostAddress = Annotated[Address, PlainValidator(values.host_address)]
Interface = Annotated[str, PlainValidator(values.interface)]
INTERFACE_DESCRIPTION = "the name of a network interface, at most 15 characters"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Node(_Section):
    """`[node]`: who this node is."""

    name: StrictStr = Field(
        default_factory=socket.gethostname,
        pattern=r"^[!-~]{1,64}$",
        description="1 to 64 printable ASCII characters without spaces",
    )


class _AnyLink(_Section):
    port: StrictInt = Field(default=3780, ge=1, le=65535, description="a port, 1 to 65535")
    mtu: StrictInt | None = Field(default=None, ge=576, le=65535, description="bytes, 576 to 65535")


class MulticastLink(_AnyLink):
    """A `[[link]]` over UDP multicast on one interface."""

    transport: Literal["multicast"]
    interface: Interface = Field(description=INTERFACE_DESCRIPTION)
    group: Annotated[Address, PlainValidator(values.multicast_address)] = Field(
        description='a multicast address, such as "225.0.0.50" or "ff02::50"'
    )


class UnicastLink(_AnyLink):
    """A `[[link]]` over UDP or TCP between addresses."""

    transport: Literal["udp", "tcp"]
    interface: Interface | None = Field(default=None, description=INTERFACE_DESCRIPTION)
    bind: HostAddress = Field(description='an address of this node, such as "203.0.113.1"')
    peers: tuple[HostAddress, ...] = Field(
        min_length=1,
        description='the other nodes, each once, in the same family as bind, such as ["203.0.113.2"]',
    )

    @field_validator("peers")
    @classmethod
    def _fit_bind(cls, peers: tuple[Address, ...], info: ValidationInfo) -> tuple[Address, ...]:
        bind = info.data.get("bind")
        if len(set(peers)) != len(peers):
            raise ValueError
        if bind is not None and (bind in peers or any(peer.version != bind.version for peer in peers)):
            raise ValueError
        return peers


Link = MulticastLink | UnicastLink


class Security(_Section):
    """`[security]`: the keys that seal and open what travels over the links."""

    key_files: tuple[AbsolutePath, ...] = Field(
        default=(), min_length=1, description='absolute paths, such as ["/etc/ftfw/link.key"]'
    )


class Standby(_Section):
    """`[standby]`: where a backup keeps what it holds."""

    mode: Literal["warm", "hot"] = Field(default="warm", description='"warm" or "hot"')


class Replicate(_Section):
    """`[replicate]`: which flows are replicated. An empty tuple, and None, stand for all of them."""

    protocols: tuple[Annotated[int, PlainValidator(values.protocol)], ...] = Field(
        default=(),
        min_length=1,
        description=f'numbers (0 to 255) or names ({", ".join(values.PROTOCOLS)}), such as ["tcp", 47]',
    )
    addresses: tuple[Annotated[Network, PlainValidator(values.network)], ...] = Field(
        default=(),
        min_length=1,
        description='networks without host bits, or addresses, such as ["192.0.2.0/24", "2001:db8::1"]',
    )
    ports: tuple[Annotated[PortRange, PlainValidator(values.port_range)], ...] = Field(
        default=(), min_length=1, description='ports (0 to 65535) or ranges, such as [22, "1024-2047"]'
    )
    zones: tuple[Annotated[StrictInt, Field(ge=0, le=65535)], ...] = Field(
        default=(),
        min_length=1,
        description="zones (0 to 65535), such as [0, 7]; 0 is the zone of flows without one",
    )
    mark: Annotated[Mark | None, PlainValidator(values.mark)] = Field(
        default=None,
        description='"value/mask" or a value, 32 bits, no bit of it outside the mask, such as "0x10/0xff"',
    )
    tcp_states: tuple[Annotated[str, PlainValidator(values.tcp_state)], ...] = Field(
        default=(),
        min_length=1,
        description=f'names of TCP states ({", ".join(values.TCP_STATES)}), such as ["ESTABLISHED"]',
    )
    expectations: Annotated[bool | tuple[str, ...], PlainValidator(values.expectations)] = Field(
        default=True, description='true, false, or names of helpers, such as ["ftp", "sip"]'
    )


class Replication(_Section):
    """`[replication]`: how frames are made."""

    compress: StrictBool = Field(default=True, description="true or false")
    scrub_interval_s: StrictInt = Field(default=60, ge=1, le=86400, description="seconds, 1 to 86400")


class Kernel(_Section):
    """`[kernel]`: what ftfw asks of the kernel."""

    event_buffer_bytes: StrictInt = Field(
        default=64 << 20, ge=64 << 10, le=1 << 30, description="bytes, 65536 to 1073741824"
    )


class Keepalived(_Section):
    """`[keepalived]`: what it tells this node, and what this node tells it."""

    fifo: AbsolutePath | None = Field(default=None, description="the absolute path of keepalived's vrrp_notify_fifo")
    instances: tuple[Annotated[StrictStr, Field(min_length=1)], ...] = Field(
        default=(), description='names of VRRP instances or sync groups, such as ["FW"]'
    )
    addresses: tuple[HostAddress, ...] = Field(
        default=(), description='virtual addresses without a prefix length, such as ["192.0.2.1", "2001:db8::1"]'
    )
    track_file: AbsolutePath | None = Field(
        default=None, description="the absolute path of the file that keepalived's track_file names"
    )


class Takeover(_Section):
    """`[takeover]`: what happens to traffic until a warm node's commit is done."""

    gate_interfaces: tuple[Interface, ...] = Field(
        default=(), description='names of interfaces, such as ["lan", "wan"]'
    )


class Control(_Section):
    """`[control]`: the control socket."""

    socket: Annotated[Path, PlainValidator(values.socket_path)] = Field(
        default=DEFAULT_SOCKET, description=f"an absolute path of at most {values.UNIX_PATH_MAX} bytes"
    )


class Metrics(_Section):
    """`[metrics]`: where Prometheus may ask."""

    listen: Annotated[Endpoint | None, PlainValidator(values.endpoint)] = Field(
        default=None, description='"ADDRESS:PORT", such as "127.0.0.1:9166" or "[::1]:9166"'
    )


class Config(_Section):
    """The whole file. Any section may be left out; `require_complete` asks for what the daemon needs."""

    node: Node = Field(default_factory=Node)  # the host may have been renamed since
    link: tuple[Annotated[Link, Discriminator("transport")], ...] = ()
    security: Security = Security()
    standby: Standby = Standby()
    replicate: Replicate = Replicate()
    replication: Replication = Replication()
    kernel: Kernel = Kernel()
    keepalived: Keepalived = Keepalived()
    takeover: Takeover = Takeover()
    control: Control = Control()
    metrics: Metrics = Metrics()


def load(path: Path) -> Config:
    """Read the file at `path`; ConfigError, with one line per problem, if anything in it is wrong."""
    try:
        document = tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; write it, or name another with --config") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; TOML is UTF-8 text") from None
    except (ValueError, RecursionError) as error:  # a number too long, tables too deep: tomllib lets Python's own rise
        raise ConfigError(f"{path}: not TOML: {error}") from None
    return parse(document, path)


def parse(document: dict[str, Any], path: Path) -> Config:
    """Validate a parsed document; `path` is for the messages of ConfigError."""
    try:
        config = Config.model_validate(document)
    except ValidationError as error:
        problems = explain(error, Config)
    else:
        problems = _rivals(config.link)
    if problems:
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in problems))
    return config


def require_complete(config: Config, path: Path) -> None:
    """Raise ConfigError unless the file says all that the daemon needs."""
    problems = []
    if not config.link:
        problems.append(f"{path}: link: missing; expected at least one table [[link]]")
    if not config.security.key_files:
        problems.append(
            f"{path}: security.key_files: missing; expected {Security.model_fields['key_files'].description}"
            " (`ftfw keygen FILE` makes a key)"
        )
    if problems:
        raise ConfigError("\n".join(problems))


def _rivals(links: tuple[Link, ...]) -> list[str]:
    """Links that would open the same socket twice."""
    first: dict[tuple[object, ...], int] = {}
    problems = []
    for index, link in enumerate(links):
        place = (link.interface, link.group) if isinstance(link, MulticastLink) else (link.transport, link.bind)
        earlier = first.setdefault((*place, link.port), index)
        if earlier != index:
            problems.append(f"link[{index}]: found the same place as link[{earlier}]; expected another address or port")
    return problems
