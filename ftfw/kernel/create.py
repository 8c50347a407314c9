"""Make the attributes of requests that put held flows into a kernel.  Pure.

What the kernel accepts differs from what it reports (facts tried on 6.18; ctnetlink_create_conntrack and
ctnetlink_change_conntrack in net/netfilter/nf_conntrack_netlink.c):

- NAT: a created entry gets the reply tuple as the plain inverse of the original, and the translation as CTA_NAT_SRC
  and CTA_NAT_DST; an already translated reply tuple is accepted and then leaves packets untranslated.
- TCP flags are reported with mask 0 and would be ignored; the mask becomes 0xff.  Window tracking cannot be restored,
  so both directions get IP_CT_TCP_FLAG_BE_LIBERAL.  MAXACK_SET is removed: it says that td_maxack is valid, which is 0
  in a created entry, and half of all RSTs would count as invalid (nf_conntrack_tcp_packet, TCP_CONNTRACK_CLOSE).
- Status: EXPECTED only on updates of entries whose master was found; never DYING or an offload bit; always CONFIRMED.
- GRE: its timeouts are zero in a created entry, so that only FIXED_TIMEOUT keeps it alive.
- pptp: a NATed control entry that is created with its helper makes the kernel drop every control message; it is created
  without.  An entry that traffic made keeps its helper.
- An update can remove the mark and nothing else: an entry with labels, sequence adjustment, SYNPROXY or a master that
  the flow does not have is deleted and created.
- Timeouts: an entry that the active still has is alive, and a refresh makes no event; it gets at least the timeout that
  a packet would set in its state.  A timeout so long that it may be a hot backup's is ignored.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ftfw.kernel import uapi
from ftfw.kernel.attributes import nest, nested, number, pack, payload, split, u8, u32
from ftfw.kernel.flow_entry import helper_of, protocol_of, status_of

CREATE: Final = uapi.NLM_F_REQUEST | uapi.NLM_F_CREATE | uapi.NLM_F_EXCL
UPDATE: Final = uapi.NLM_F_REQUEST

NAT: Final = uapi.IPS_SRC_NAT | uapi.IPS_DST_NAT
NOT_CREATED: Final = uapi.IPS_EXPECTED | uapi.IPS_DYING | uapi.IPS_OFFLOAD | uapi.IPS_HW_OFFLOAD
PPTP: Final = "pptp"
# Attributes that are put into new entries and existing ones as they came; an update cannot remove them.
LASTING: Final = (
    uapi.CTA_LABELS,
    uapi.CTA_SEQ_ADJ_ORIG,
    uapi.CTA_SEQ_ADJ_REPLY,
    uapi.CTA_SYNPROXY,
)

PINNED_S: Final = 14 * 86400  # below INT_MAX jiffies at any HZ, so the kernel keeps it as it is
# A timeout from here on (7.6 days) may be the rest of a pinned one, and is ignored.  No state has more than 5 days by
# default.  The first two bytes of the number are enough to see it: see `create_bulk`.
DOUBTED_S: Final = 10 << 16
ENDING_S: Final = 120  # replaces a doubted timeout where `Timeouts` has none: the longest of TCP's closing states
FALLBACK_TIMEOUT_S: Final = 600  # the generic protocol's own default (nf_conntrack_generic_timeout)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Holds a host's timeouts in seconds, for the states in which packets refresh the timer without an event."""

    tcp_established: int = 432000
    udp: int = 30
    udp_stream: int = 120
    icmp: int = 30
    icmpv6: int = 30
    gre: int = 30
    gre_stream: int = 180
    sctp_established: int = 210
    generic: int = 600

    def least(self, protocol: int, status: int, protoinfo: bytes) -> int:
        """Return the seconds to which a packet sets the timer in this state; 0 if such a refresh makes an event."""
        if protocol == uapi.IPPROTO_TCP:
            return self.tcp_established if tcp_state(protoinfo) == uapi.TCP_ESTABLISHED else 0
        if protocol in (uapi.IPPROTO_UDP, uapi.IPPROTO_UDPLITE):
            return self.udp_stream if status & uapi.IPS_SEEN_REPLY else self.udp
        if protocol == uapi.IPPROTO_GRE:
            return self.gre_stream if status & uapi.IPS_SEEN_REPLY else self.gre
        if protocol == uapi.IPPROTO_SCTP:
            return self.sctp_established if _sctp_state(protoinfo) == uapi.SCTP_ESTABLISHED else 0
        fixed = {uapi.IPPROTO_ICMP: self.icmp, uapi.IPPROTO_ICMPV6: self.icmpv6}
        return fixed.get(protocol, self.generic)


def tcp_state(protoinfo: bytes) -> int:
    """Return the state in a CTA_PROTOINFO attribute; ESTABLISHED for a TCP entry without one (it is offloaded)."""
    tcp = nested(protoinfo).get(uapi.CTA_PROTOINFO_TCP) if protoinfo else None
    state = nested(tcp).get(uapi.CTA_PROTOINFO_TCP_STATE) if tcp else None
    return uapi.TCP_ESTABLISHED if state is None else number(state)


def _sctp_state(protoinfo: bytes) -> int:
    """Return the state in a CTA_PROTOINFO attribute; 0 if it has none."""
    sctp = nested(protoinfo).get(uapi.CTA_PROTOINFO_SCTP) if protoinfo else None
    state = nested(sctp).get(uapi.CTA_PROTOINFO_SCTP_STATE) if sctp else None
    return 0 if state is None else number(state)


def create(key: bytes, value: bytes, *, timeouts: Timeouts, pinned: bool = False) -> bytes:
    """Return the attributes that create the flow; `pinned`: with PINNED_S as timeout."""
    attributes = split(value)
    ends = _Ends(key, attributes)
    status = status_of(attributes) & ~NOT_CREATED | uapi.IPS_CONFIRMED
    if ends.protocol == uapi.IPPROTO_GRE:
        status |= uapi.IPS_FIXED_TIMEOUT
    parts = [key, ends.plain_reply(), u32(uapi.CTA_STATUS, status)]
    parts.append(_timeout(attributes, ends.protocol, status, timeouts, pinned=pinned))
    parts.append(_protoinfo(attributes, ends.protocol))
    parts.extend(ends.nat())
    if created_helper(attributes) is not None:
        parts.append(attributes[uapi.CTA_HELP])
    copied = (uapi.CTA_MARK, *LASTING, uapi.CTA_TUPLE_MASTER)
    parts.extend(attributes[kind] for kind in copied if kind in attributes)
    return b"".join(parts)


def created_helper(attributes: dict[int, bytes]) -> str | None:
    """Return the name of the helper with which `create` makes the flow that has these attributes; None without one."""
    helper = helper_of(attributes)
    return None if helper == PPTP and status_of(attributes) & NAT else helper


def update(key: bytes, value: bytes, found: Mapping[int, bytes], *, timeouts: Timeouts, pinned: bool = False) -> bytes:
    """Return the attributes that make `found`, the kernel's entry of this flow, equal to `value`.

    EXPECTED must be sent as the entry has it, and a helper that the entry does not have is refused.
    """
    attributes = split(value)
    status = status_of(attributes) & ~NOT_CREATED | uapi.IPS_CONFIRMED | status_of(found) & uapi.IPS_EXPECTED
    protocol = protocol_of(key)
    parts = [key, u32(uapi.CTA_STATUS, status)]
    if protocol != uapi.IPPROTO_GRE:  # its FIXED_TIMEOUT would make the whole update fail with EPERM
        parts.append(_timeout(attributes, protocol, status, timeouts, pinned=pinned))
    parts.append(_protoinfo(attributes, protocol))
    if uapi.CTA_HELP in found and uapi.CTA_HELP in attributes:
        parts.append(attributes[uapi.CTA_HELP])
    parts.append(attributes.get(uapi.CTA_MARK, u32(uapi.CTA_MARK, 0)))
    parts.extend(attributes[kind] for kind in LASTING if kind in attributes)
    return b"".join(parts)


def set_timeout(key: bytes, value: bytes, timeouts: Timeouts, *, pinned: bool) -> bytes:
    """Return the attributes that set only the timer of an entry."""
    attributes = split(value)
    return key + _timeout(attributes, protocol_of(key), status_of(attributes), timeouts, pinned=pinned)


def disable_window_tracking(key: bytes) -> bytes:
    """Return the attributes that disable window tracking for an existing TCP entry, and change nothing else."""
    flags = bytes((uapi.IP_CT_TCP_FLAG_BE_LIBERAL, uapi.IP_CT_TCP_FLAG_BE_LIBERAL))
    kinds = (uapi.CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, uapi.CTA_PROTOINFO_TCP_FLAGS_REPLY)
    return key + nest(uapi.CTA_PROTOINFO, [nest(uapi.CTA_PROTOINFO_TCP, [pack(kind, flags) for kind in kinds])])


def without(attributes: bytes, lacking: int) -> bytes:
    """Return `attributes` without the one of type `lacking`: a helper, master or labels that this kernel cannot add."""
    return b"".join(data for kind, data in split(attributes).items() if kind != lacking)


def updatable(value: bytes, found: dict[int, bytes]) -> bool:
    """Return whether an update can make the kernel's entry `found` equal to `value`.

    It can where the translation is the same, the helper is the one that the entry should have, and nothing must be
    removed.
    """
    attributes = split(value)
    return (
        attributes[uapi.CTA_TUPLE_REPLY] == found.get(uapi.CTA_TUPLE_REPLY)
        and helper_of(found) in (created_helper(attributes), helper_of(attributes))
        and found.get(uapi.CTA_TUPLE_MASTER) in (None, attributes.get(uapi.CTA_TUPLE_MASTER))
        and not any(_has_payload(kind, found[kind]) for kind in LASTING if kind in found and kind not in attributes)
    )


def _has_payload(kind: int, attribute: bytes) -> bool:
    """Return whether any payload byte of an attribute is not zero."""
    parts = [attribute] if kind == uapi.CTA_LABELS else nested(attribute).values()
    return any(any(payload(part)) for part in parts)


class _Ends:
    """Hold the two tuples of a flow, and derive the translation between them."""

    def __init__(self, key: bytes, attributes: dict[int, bytes]) -> None:
        original = nested(key)
        reply = nested(attributes[uapi.CTA_TUPLE_REPLY])
        self._addresses = [payload(a) for _, a in sorted(nested(original[uapi.CTA_TUPLE_IP]).items())]
        self._reply_addresses = [payload(a) for _, a in sorted(nested(reply[uapi.CTA_TUPLE_IP]).items())]
        protocol = nested(original[uapi.CTA_TUPLE_PROTO])
        self._reply_protocol = nested(reply[uapi.CTA_TUPLE_PROTO])
        self._zone = reply.get(uapi.CTA_TUPLE_ZONE, b"")
        self._ip_kinds = sorted(nested(original[uapi.CTA_TUPLE_IP]))
        self._original_protocol = protocol
        self.protocol = number(protocol[uapi.CTA_PROTO_NUM])

    def _ports(self, protocol: dict[int, bytes]) -> tuple[bytes, bytes]:
        """Return source and destination port of a tuple; ICMP's id stands for both, as in the kernel's tuples."""
        for kind in (uapi.CTA_PROTO_ICMP_ID, uapi.CTA_PROTO_ICMPV6_ID):
            if kind in protocol:
                return payload(protocol[kind]), payload(protocol[kind])
        none = pack(0, b"\0\0")
        return (
            payload(protocol.get(uapi.CTA_PROTO_SRC_PORT, none)),
            payload(protocol.get(uapi.CTA_PROTO_DST_PORT, none)),
        )

    def plain_reply(self) -> bytes:
        """Return the reply tuple as if nothing were translated, its zone kept."""
        source, destination = self._addresses
        addresses = [pack(kind, a) for kind, a in zip(self._ip_kinds, (destination, source), strict=True)]
        fields = dict(self._reply_protocol)
        source_port, destination_port = self._ports(self._original_protocol)
        if uapi.CTA_PROTO_SRC_PORT in fields:
            fields[uapi.CTA_PROTO_SRC_PORT] = pack(uapi.CTA_PROTO_SRC_PORT, destination_port)
            fields[uapi.CTA_PROTO_DST_PORT] = pack(uapi.CTA_PROTO_DST_PORT, source_port)
        for kind in (uapi.CTA_PROTO_ICMP_ID, uapi.CTA_PROTO_ICMPV6_ID):
            if kind in fields:
                fields[kind] = pack(kind, source_port)
        parts = [nest(uapi.CTA_TUPLE_IP, addresses), nest(uapi.CTA_TUPLE_PROTO, fields.values()), self._zone]
        return nest(uapi.CTA_TUPLE_REPLY, parts)

    def nat(self) -> list[bytes]:
        """Return CTA_NAT_SRC and CTA_NAT_DST, derived from how the reply tuple differs from the plain inverse."""
        source, destination = self._addresses
        reply_source, reply_destination = self._reply_addresses
        source_port, destination_port = self._ports(self._original_protocol)
        reply_source_port, reply_destination_port = self._ports(self._reply_protocol)
        icmp = uapi.CTA_PROTO_ICMP_ID in self._reply_protocol or uapi.CTA_PROTO_ICMPV6_ID in self._reply_protocol
        parts = []
        if (reply_destination, reply_destination_port) != (source, source_port):
            parts.append(self._range(uapi.CTA_NAT_SRC, reply_destination, reply_destination_port))
        if reply_source != destination or (not icmp and reply_source_port != destination_port):
            parts.append(self._range(uapi.CTA_NAT_DST, reply_source, b"" if icmp else reply_source_port))
        return parts

    def _range(self, kind: int, address: bytes, port: bytes) -> bytes:
        v4 = len(address) == 4
        parts = [
            pack(uapi.CTA_NAT_V4_MINIP if v4 else uapi.CTA_NAT_V6_MINIP, address),
            pack(uapi.CTA_NAT_V4_MAXIP if v4 else uapi.CTA_NAT_V6_MAXIP, address),
        ]
        if port and self.protocol != uapi.IPPROTO_GRE:  # a fixed GRE key is refused as in use
            ports = (pack(uapi.CTA_PROTONAT_PORT_MIN, port), pack(uapi.CTA_PROTONAT_PORT_MAX, port))
            parts.append(nest(uapi.CTA_NAT_PROTO, ports))
        return nest(kind, parts)


def _timeout(attributes: dict[int, bytes], protocol: int, status: int, timeouts: Timeouts, *, pinned: bool) -> bytes:
    if pinned:
        return u32(uapi.CTA_TIMEOUT, PINNED_S)
    held = attributes.get(uapi.CTA_TIMEOUT)
    seconds = number(held) if held else FALLBACK_TIMEOUT_S
    least = timeouts.least(protocol, status, attributes.get(uapi.CTA_PROTOINFO, b""))
    if seconds >= DOUBTED_S:
        return u32(uapi.CTA_TIMEOUT, least or ENDING_S)
    return u32(uapi.CTA_TIMEOUT, max(seconds, least, 1))


def _protoinfo(attributes: dict[int, bytes], protocol: int) -> bytes:
    """Return CTA_PROTOINFO for injection; an offloaded TCP entry, which reports none, is established."""
    held = attributes.get(uapi.CTA_PROTOINFO, b"")
    if protocol != uapi.IPPROTO_TCP:
        return held
    tcp = nested(nested(held).get(uapi.CTA_PROTOINFO_TCP, pack(0, b""))) if held else {}
    fields = [u8(uapi.CTA_PROTOINFO_TCP_STATE, tcp_state(held))]
    scales = (uapi.CTA_PROTOINFO_TCP_WSCALE_ORIGINAL, uapi.CTA_PROTOINFO_TCP_WSCALE_REPLY)
    fields += [tcp[kind] for kind in scales if kind in tcp]
    for kind in (uapi.CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, uapi.CTA_PROTOINFO_TCP_FLAGS_REPLY):
        flags = payload(tcp[kind])[0] & ~uapi.TCP_FLAGS_SILENT if kind in tcp else 0
        fields.append(pack(kind, bytes((flags | uapi.IP_CT_TCP_FLAG_BE_LIBERAL, 0xFF))))
    return nest(uapi.CTA_PROTOINFO, [nest(uapi.CTA_PROTOINFO_TCP, fields)])
