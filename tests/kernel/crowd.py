"""Many flows at once, put into the kernel of the namespace that one is in, as traffic would: not by the daemon."""

from ftfw.kernel import attributes, create, uapi
from ftfw.kernel.create_bulk import BATCH, batches
from ftfw.kernel.injector import InjectionOutcome, Injector
from ftfw.kernel.netlink import RequestSocket
from ftfw.replication.store import Store


async def inject_many(count: int, first: int = 0, *, lasting_s: int = 600) -> None:
    """Put in flows number `first` and following, faster than a small buffer can take their events."""
    outcome = InjectionOutcome()
    requests = RequestSocket()
    injector = Injector(requests, lambda: create.Timeouts(udp=lasting_s))
    await injector.create(batches(_flows(count, first).plain.items(), BATCH), outcome)
    requests.close()
    assert outcome.created == count


async def end_many(count: int, first: int = 0) -> None:
    """End them."""
    outcome = InjectionOutcome()
    requests = RequestSocket()
    await Injector(requests, create.Timeouts).delete(list(_flows(count, first).plain), outcome)
    requests.close()
    assert outcome.deleted == count


def _flows(count: int, first: int) -> Store:
    store = Store()
    store.apply([_plain_event(10000 + number % 40000, number // 40000) for number in range(first, first + count)])
    return store


def _plain_event(source_port: int, host: int) -> bytes:
    def end(kind: int, source: bytes, destination: bytes, ports: tuple[int, int]) -> bytes:
        addresses = attributes.pack(uapi.CTA_IP_V4_SRC, source) + attributes.pack(uapi.CTA_IP_V4_DST, destination)
        protocol = [
            attributes.u8(uapi.CTA_PROTO_NUM, uapi.IPPROTO_UDP),
            attributes.u16(uapi.CTA_PROTO_SRC_PORT, ports[0]),
            attributes.u16(uapi.CTA_PROTO_DST_PORT, ports[1]),
        ]
        parts = [attributes.nest(uapi.CTA_TUPLE_IP, [addresses]), attributes.nest(uapi.CTA_TUPLE_PROTO, protocol)]
        return attributes.nest(kind, parts)

    near, far = bytes((192, 0, 2, 10 + host)), bytes((198, 51, 100, 10))
    body = end(uapi.CTA_TUPLE_ORIG, near, far, (source_port, 53)) + end(
        uapi.CTA_TUPLE_REPLY, far, near, (53, source_port)
    )
    body += attributes.u32(uapi.CTA_ID, source_port) + attributes.u32(uapi.CTA_STATUS, uapi.IPS_CONFIRMED)
    body += attributes.u32(uapi.CTA_TIMEOUT, 600)
    return attributes.message(uapi.CT_NEW, uapi.NLM_F_CREATE | uapi.NLM_F_EXCL, uapi.AF_INET, body)
