"""Reads and validates the configuration file: TOML in, frozen models out.

`load` returns a `Config` on which all other code relies, or raises `ConfigError`.  The `description` of a field says
what it accepts; error messages repeat it.
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

AbsolutePath = Annotated[Path, PlainValidator(values.absolute_path)]
HostAddress = Annotated[Address, PlainValidator(values.host_address)]
Interface = Annotated[str, PlainValidator(values.interface)]
INTERFACE_DESCRIPTION = "the name of a network interface, at most 15 characters"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NodeSection(_Section):
    """Holds `[node]`, which names this node."""

    name: StrictStr = Field(
        default_factory=socket.gethostname,
        pattern=r"^[!-~]{1,64}$",
        description="1 to 64 printable ASCII characters without spaces",
    )


class _LinkSection(_Section):
    port: StrictInt = Field(default=3780, ge=1, le=65535, description="a port, 1 to 65535")
    mtu: StrictInt | None = Field(default=None, ge=576, le=65535, description="bytes, 576 to 65535")


class MulticastLink(_LinkSection):
    """Holds a `[[link]]` over UDP multicast on one interface."""

    transport: Literal["multicast"]
    interface: Interface = Field(description=INTERFACE_DESCRIPTION)
    group: Annotated[Address, PlainValidator(values.multicast_address)] = Field(
        description='a multicast address, such as "225.0.0.50" or "ff02::50"'
    )


class UnicastLink(_LinkSection):
    """Holds a `[[link]]` over UDP or TCP between addresses."""

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


AnyLink = MulticastLink | UnicastLink


class SecuritySection(_Section):
    """Holds `[security]`, which names the keys that authenticate and encrypt frames."""

    key_files: tuple[AbsolutePath, ...] = Field(
        default=(), min_length=1, description='absolute paths, such as ["/etc/ftfw/link.key"]'
    )


class StandbySection(_Section):
    """Holds `[standby]`, which says where a backup keeps its entries."""

    mode: Literal["warm", "hot"] = Field(default="warm", description='"warm" or "hot"')


class Replicate(_Section):
    """Holds `[replicate]`, which selects the flows to replicate; an empty tuple and None select all."""

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


class ReplicationSection(_Section):
    """Holds `[replication]`, which tunes the stream."""

    compress: StrictBool = Field(default=True, description="true or false")
    scrub_interval_s: StrictInt = Field(default=60, ge=1, le=86400, description="seconds, 1 to 86400")


class KernelSection(_Section):
    """Holds `[kernel]`, which tunes how ftfw reads events."""

    event_buffer_bytes: StrictInt = Field(
        default=64 << 20, ge=64 << 10, le=1 << 30, description="bytes, 65536 to 1073741824"
    )


class KeepalivedSection(_Section):
    """Holds `[keepalived]`, which says how this node and keepalived inform each other."""

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


class TakeoverSection(_Section):
    """Holds `[takeover]`, which says where traffic waits until the commit of a warm node is done."""

    gate_interfaces: tuple[Interface, ...] = Field(
        default=(), description='names of interfaces, such as ["lan", "wan"]'
    )


class ControlSection(_Section):
    """Holds `[control]`, which names the control socket."""

    socket: Annotated[Path, PlainValidator(values.socket_path)] = Field(
        default=DEFAULT_SOCKET, description=f"an absolute path of at most {values.UNIX_PATH_MAX} bytes"
    )


class MetricsSection(_Section):
    """Holds `[metrics]`, which says where Prometheus can read the metrics."""

    listen: Annotated[Endpoint | None, PlainValidator(values.endpoint)] = Field(
        default=None, description='"ADDRESS:PORT", such as "127.0.0.1:9166" or "[::1]:9166"'
    )


class Config(_Section):
    """Holds the whole file.  Any section may be missing; `require_complete` raises if the daemon needs it."""

    node: NodeSection = Field(default_factory=NodeSection)  # evaluated for each file: the host may have been renamed
    link: tuple[Annotated[AnyLink, Discriminator("transport")], ...] = ()
    security: SecuritySection = SecuritySection()
    standby: StandbySection = StandbySection()
    replicate: Replicate = Replicate()
    replication: ReplicationSection = ReplicationSection()
    kernel: KernelSection = KernelSection()
    keepalived: KeepalivedSection = KeepalivedSection()
    takeover: TakeoverSection = TakeoverSection()
    control: ControlSection = ControlSection()
    metrics: MetricsSection = MetricsSection()


def load(path: Path) -> Config:
    """Read the file at `path`.  Raises ConfigError, with one line for each problem, if anything in it is wrong."""
    try:
        document = tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; write it, or name another with --config") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; TOML is UTF-8 text") from None
    except (ValueError, RecursionError) as error:  # also a number too long or tables too deep for Python itself
        raise ConfigError(f"{path}: not TOML: {error}") from None
    return parse(document, path)


def parse(document: dict[str, Any], path: Path) -> Config:
    """Validate a parsed document.  Raises ConfigError, whose messages begin with `path`, if anything in it is wrong."""
    try:
        config = Config.model_validate(document)
    except ValidationError as error:
        problems = explain(error, Config)
    else:
        problems = _links_in_one_place(config.link)
    if problems:
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in problems))
    return config


def require_complete(config: Config, path: Path) -> None:
    """Raise ConfigError unless the file has everything that the daemon needs."""
    problems = []
    if not config.link:
        problems.append(f"{path}: link: missing; expected at least one table [[link]]")
    if not config.security.key_files:
        problems.append(
            f"{path}: security.key_files: missing; expected {SecuritySection.model_fields['key_files'].description}"
            " (`ftfw keygen FILE` makes a key)"
        )
    if problems:
        raise ConfigError("\n".join(problems))


def _links_in_one_place(links: tuple[AnyLink, ...]) -> list[str]:
    """Return a problem for each link that would open the same socket as an earlier one."""
    first: dict[tuple[object, ...], int] = {}
    problems = []
    for index, link in enumerate(links):
        place = (link.interface, link.group) if isinstance(link, MulticastLink) else (link.transport, link.bind)
        earlier = first.setdefault((*place, link.port), index)
        if earlier != index:
            problems.append(f"link[{index}]: found the same place as link[{earlier}]; expected another address or port")
    return problems
