"""Open sockets of the netfilter netlink family for events, dumps and requests.  Thin: bytes in, bytes out.

The kernel makes the answers to dumps and requests during the system call, which takes as long.  Callers keep batches to
about a millisecond, or call in a thread.
"""

import errno
import socket
import struct
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import suppress
from itertools import islice

import trio

from ftfw.kernel import uapi
from ftfw.kernel.attributes import MESSAGE, MESSAGE_SIZE, MalformedError, message, u32
from ftfw.system.recvmmsg import SO_RCVBUFFORCE, SO_SNDBUFFORCE, BatchReader, attach_filter

RECEIVE_SIZE = 1 << 16  # a dump's datagram is at most 32 KiB (netlink_dump)
EVENT_MEMORY = 512  # bytes that an event takes of the socket's buffer at least (its sk_buff's truesize)
SLOTS = 128  # datagrams taken from the event socket by one system call
SLOT_SIZE = 1024  # an event is one message of a few hundred bytes
SLOT_USUAL = 320  # bytes of an event without helper and labels, at most
REQUEST_BUFFER = 4 << 20  # bytes: room for a batch on its way in, and for an error for each of its messages
CT_GET_STATS = 0x105  # IPCTNL_MSG_CT_GET_STATS: changes nothing, and its answer is short
GET_STATS_TIMEOUT_S = 2.0
GETS_MAX = 128  # requests of `get` sent at once: their answers take a small part of REQUEST_BUFFER
CHECKPOINT_EVERY = 8  # datagrams of a dump read between two checkpoints


class OverrunError(Exception):
    """Raised if the kernel had more events than the socket's buffer holds, so that some are lost (ENOBUFS)."""


class CutShortError(Exception):
    """Raised if the kernel stopped at a message with a wrong length; the messages after it are not carried out."""

    def __init__(self) -> None:
        super().__init__("the kernel did not come to the end of a batch of requests: one of them says a wrong length")


def _open() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, uapi.NETLINK_NETFILTER)


def slices(datagram: bytes) -> list[bytes]:
    """Return the messages in a datagram.  Raises MalformedError for a length that leaves it."""
    found = []
    start, end = 0, len(datagram)
    while start + 4 <= end:
        length = _U32.unpack_from(datagram, start)[0]
        if length < MESSAGE_SIZE or start + length > end:
            raise MalformedError(f"a netlink message says {length} of {end - start} bytes")
        found.append(datagram[start : start + length])
        start += (length + 3) & ~3
    return found


_U32 = struct.Struct("=I")


class EventSocket:
    """Receives events of conntrack entries and expectations, except those that `own_port` causes.

    A socket filter on nlmsg_pid drops these in the kernel, where they cost least.  It drops no others: events of an
    administrator's `conntrack -D` have a port id as well.
    """

    GROUPS = (
        uapi.NFNLGRP_CONNTRACK_NEW,
        uapi.NFNLGRP_CONNTRACK_UPDATE,
        uapi.NFNLGRP_CONNTRACK_DESTROY,
        uapi.NFNLGRP_CONNTRACK_EXP_NEW,
        uapi.NFNLGRP_CONNTRACK_EXP_UPDATE,
        uapi.NFNLGRP_CONNTRACK_EXP_DESTROY,
    )

    def __init__(self, *, own_port: int, buffer_bytes: int) -> None:
        self._socket = _open()
        self._socket.setblocking(False)
        self._reader = BatchReader(slots=SLOTS, size=SLOT_SIZE, usual=SLOT_USUAL)
        self._has_overrun = False  # behind the events that `drain` returned last
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, buffer_bytes)
        self.most = 2 * buffer_bytes // EVENT_MEMORY  # events that fit: the kernel doubles the size asked for
        self._attach(own_port)
        self._socket.bind((0, 0))
        for group in self.GROUPS:
            self._socket.setsockopt(uapi.SOL_NETLINK, uapi.NETLINK_ADD_MEMBERSHIP, group)

    def _attach(self, own_port: int) -> None:
        """Attach classic BPF: load nlmsg_pid (in network order), drop messages with `own_port`, pass the rest."""
        port = struct.unpack(">I", struct.pack("=I", own_port))[0]
        program = ((0x20, 0, 0, 12), (0x15, 0, 1, port), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
        attach_filter(self._socket, program)

    async def wait(self) -> None:
        """Wait until `drain` can return messages or raise OverrunError."""
        await trio.lowlevel.wait_readable(self._socket)

    def drain(self, most: int) -> list[bytes]:
        """Return the messages that wait, and stop reading once there are `most`, or up to SLOTS - 1 more.

        Raises OverrunError where the kernel has lost events, after the messages before that have been returned.
        """
        found: list[bytes] = []
        while len(found) < most and not self._has_overrun:
            batch = self._read()
            found += batch
            if len(batch) < SLOTS:
                break
        if self._has_overrun and not found:
            self._has_overrun = False
            raise OverrunError
        return found

    def _read(self) -> list[bytes]:
        """Return the messages of one system call; note an overrun, which `drain` raises after them."""
        truncated = self._reader.truncated
        try:
            batch = self._reader.read(self._socket.fileno())
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self._has_overrun = True
            return []
        self._has_overrun = self._reader.truncated != truncated  # a part of an event says nothing of the rest
        return batch

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def dump_flows() -> AsyncGenerator[list[bytes], None]:
    """Yield the kernel's conntrack entries, a list for each datagram.

    The dump is consistent within one hash bucket only: subscribe to events first, then dump.  Raises OSError.
    """
    return _dump(uapi.CT_GET)


def dump_fixed_flows() -> AsyncGenerator[list[bytes], None]:
    """Yield the entries with FIXED_TIMEOUT, as `dump_flows` does; all entries if the kernel cannot select by status.

    The kernel walks the table in one call until it has found enough of them: 0.15 s for 300,000 entries.
    """
    bit = uapi.IPS_FIXED_TIMEOUT
    return _dump(uapi.CT_GET, u32(uapi.CTA_STATUS, bit) + u32(uapi.CTA_STATUS_MASK, bit), sparse=True)


def dump_expectations() -> AsyncGenerator[list[bytes], None]:
    """Yield the kernel's expectations, a list for each datagram.  Raises OSError."""
    return _dump(uapi.EXP_GET)


async def _dump(kind: int, condition: bytes = b"", *, sparse: bool = False) -> AsyncGenerator[list[bytes], None]:
    """Yield the messages of a dump; `sparse`: a thread waits for the kernel, which passes over most entries."""
    with _open() as reader:
        reader.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, REQUEST_BUFFER)
        reader.bind((0, 0))
        request = message(kind, uapi.NLM_F_REQUEST | uapi.NLM_F_DUMP, socket.AF_UNSPEC, condition, 1)
        # This walks up to the first entries already (netlink_dump_start): 10 ms through 262,144 empty buckets.
        await trio.to_thread.run_sync(reader.send, request, abandon_on_cancel=True)
        count = 0
        while True:
            if sparse:
                found = slices(await trio.to_thread.run_sync(reader.recv, RECEIVE_SIZE, abandon_on_cancel=True))
            else:
                found = slices(reader.recv(RECEIVE_SIZE))
            last = [m for m in found if _kind(m) in (uapi.NLMSG_DONE, uapi.NLMSG_ERROR)]
            entries = found if not last else [m for m in found if m not in last]
            if entries:
                yield entries
            if last:
                _raise_error(last[0])
                return
            count += 1
            if count % CHECKPOINT_EVERY == 0:
                await trio.lowlevel.checkpoint()


def _kind(found: bytes) -> int:
    kind: int = MESSAGE.unpack_from(found)[1]
    return kind


def _raise_error(found: bytes) -> None:
    code = _error(found)
    if code:
        raise OSError(code, f"netlink dump: {errno.errorcode.get(code, code)}")


def _error(found: bytes) -> int:
    """Return the errno in an NLMSG_ERROR or NLMSG_DONE message."""
    code: int = struct.unpack_from("=i", found, MESSAGE_SIZE)[0] if len(found) >= MESSAGE_SIZE + 4 else 0
    return -code


class RequestSocket:
    """Sends requests to the kernel, many in a datagram.  The events that they cause have `port` as port id.

    `get` has a socket of its own, so that it may be called while a thread is in `send`.  `dropped` counts, by
    reason, answers that `get` missed or did not expect.
    """

    def __init__(self, dropped: Counter[str] | None = None) -> None:
        self._dropped: Counter[str] = Counter() if dropped is None else dropped  # answers to `get`, by reason
        self._sequence = 0  # of the next request of `get`
        self._socket, self._reader = _open(), _open()
        for each in (self._socket, self._reader):
            each.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, REQUEST_BUFFER)
            each.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, REQUEST_BUFFER)
            each.setsockopt(uapi.SOL_NETLINK, uapi.NETLINK_CAP_ACK, 1)
            each.bind((0, 0))

    @property
    def port(self) -> int:
        """Return the netlink port id of the socket of `send`."""
        port: int = self._socket.getsockname()[0]
        return port

    def send(self, requests: bytes) -> list[tuple[int, int]]:
        """Have the kernel carry out all of `requests`; return sequence and errno of each that failed.

        An error does not stop the rest: all have been tried when this returns.  Raises CutShortError if the kernel did
        not reach the end, which a request at the end shows (netlink_rcv_skb does not report it), and PermissionError
        without CAP_NET_ADMIN.
        """
        if not requests:
            return []
        self._socket.sendmsg((requests, _END))
        try:
            answers = list(_answers(self._socket))
        except OSError:
            with suppress(OSError):  # the remaining answers must not count for the next batch
                list(_remaining_answers(self._socket))
            raise
        errors = [(sequence, _error(answer)) for sequence, answer in answers if _kind(answer) == uapi.NLMSG_ERROR]
        last = errors.pop() if errors else None
        if last == (_END_SEQUENCE, 0):
            return errors
        # nfnetlink_rcv reports it once for a whole datagram.
        if last is not None and last[1] == errno.EPERM and not errors:
            raise PermissionError(errno.EPERM, "the kernel accepts no requests: CAP_NET_ADMIN is missing")
        raise CutShortError

    def get(self, requests: Sequence[bytes]) -> dict[int, bytes]:
        """Return the answers to GET requests by the index of the request; missing entries are left out.

        At most GETS_MAX are sent at once.  Each gets a sequence number of its own, so that an answer to an earlier
        request is recognised: it is dropped and counted.  If the buffer does not hold all answers, the
        rest is requested again; raises OSError (ENOBUFS) if it does not hold a single one.
        """
        found: dict[int, bytes] = {}
        unanswered = dict(enumerate(requests))
        while unanswered:
            asked = list(islice(unanswered, GETS_MAX))
            answers = self._exchange([unanswered[index] for index in asked])
            if not answers:
                raise OSError(errno.ENOBUFS, "the kernel's answers do not reach this process")
            if len(answers) < len(asked):
                self._dropped["answers_lost"] += len(asked) - len(answers)
            for place, answer in answers.items():
                del unanswered[asked[place]]
                if _kind(answer) != uapi.NLMSG_ERROR:
                    found[asked[place]] = answer
        return found

    def _exchange(self, requests: list[bytes]) -> dict[int, bytes]:
        """Send requests and return the answers that have come, errors as well, by the place of the request."""
        if self._sequence + len(requests) > SEQUENCES:
            self._sequence = 0
        first = self._sequence
        self._sequence += len(requests)
        self._reader.send(b"".join(_numbered(request, first + place) for place, request in enumerate(requests)))
        answers: dict[int, bytes] = {}
        for sequence, answer in _remaining_answers(self._reader):
            if first <= sequence < first + len(requests):
                answers[sequence - first] = answer
            else:
                self._dropped["answers_stale"] += 1
        return answers

    def close(self) -> None:
        """Close the sockets."""
        self._socket.close()
        self._reader.close()


SEQUENCES = 0xFFFFFFFF  # requests are numbered from 0 to the number before this
# A request that does nothing and is acknowledged.
_END_SEQUENCE = SEQUENCES
_END = MESSAGE.pack(MESSAGE_SIZE, uapi.NLMSG_NOOP, uapi.NLM_F_REQUEST | uapi.NLM_F_ACK, _END_SEQUENCE, 0)


def _numbered(request: bytes, sequence: int) -> bytes:
    """Return a request with this sequence number in its header."""
    return request[:8] + _U32.pack(sequence) + request[12:]


def _remaining_answers(asked: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Yield all answers that wait, also those after a point where the buffer was full (ENOBUFS)."""
    while True:
        try:
            yield from _answers(asked)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
        else:
            return


def _answers(asked: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Yield sequence number and message of each answer that waits.  Raises OSError (ENOBUFS) if some are lost."""
    while True:
        try:
            datagram = asked.recv(RECEIVE_SIZE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        for answer in slices(datagram):
            header = MESSAGE.unpack_from(answer)
            # With CAP_ACK an error carries the request's header only; its sequence is the request's as well.
            yield header[3], answer


def errno_name(code: int) -> str:
    """Return the reason under which injections that fail with this errno are counted."""
    return _REASONS.get(code, errno.errorcode.get(code, str(code)).lower())


_REASONS = {
    errno.EEXIST: "exists",
    errno.EBUSY: "busy",
    errno.EINVAL: "invalid",
    errno.ENOMEM: "table_full",
    errno.ENOSPC: "chain_full",
    errno.EOPNOTSUPP: "not_supported",
    errno.ENOENT: "not_found",
    errno.EPERM: "not_permitted",
    errno.ERANGE: "out_of_range",
}


def conntrack_errno() -> int:
    """Request conntrack's statistics over netlink, and return the errno of the answer; 0 if conntrack works."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, uapi.NETLINK_NETFILTER) as asking:
            asking.settimeout(GET_STATS_TIMEOUT_S)
            asking.send(message(CT_GET_STATS, uapi.NLM_F_REQUEST | uapi.NLM_F_ACK, socket.AF_UNSPEC, b""))
            while True:
                reply = asking.recv(1 << 16)
                kind, error = struct.unpack_from("=4xH10xi", reply)
                if kind == uapi.NLMSG_ERROR:
                    return int(-error)
    except TimeoutError:
        return errno.ETIMEDOUT
    except OSError as error:
        return error.errno or errno.EIO
