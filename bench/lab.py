"""The lab of the benchmark in network namespaces: two firewalls, a link, and traffic through the first firewall."""

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.errors import BenchError

FW1, FW2, TRAFFIC = NAMESPACES = ("ftfw-bench-fw1", "ftfw-bench-fw2", "ftfw-bench-traffic")
SYNC_ADDRESS = {FW1: "192.0.2.1", FW2: "192.0.2.2"}
GATEWAY_MAC = "02:00:00:00:01:01"
CONNTRACK_MAX = Path("/proc/sys/net/netfilter/nf_conntrack_max")
LOCK = Path("/run/ftfw-bench.lock")

# fw1 forwards the packets to a neighbour that does not exist: its hardware address is not that of the interface where
# they arrive, so the traffic namespace drops them at once. Forwarding needs no address on lan and wan, and without one
# no flow can end at the firewall itself.
_LINKS = f"""
link add sync netns {FW1} type veth peer name sync netns {FW2}
link add lan netns {FW1} address {GATEWAY_MAC} type veth peer name out netns {TRAFFIC}
link add wan netns {FW1} type veth peer name in netns {TRAFFIC}
"""
_ADDRESSES = {
    FW1: """
link set lan up
link set wan up
neighbour add 192.0.2.254 lladdr 02:00:00:00:00:fe dev wan nud permanent
route add 203.0.113.0/24 via 192.0.2.254 dev wan onlink
""",
    FW2: "",
    TRAFFIC: "link set out up\nlink set in up\n",
}
_SYSCTLS = {
    "net/ipv4/ip_forward": 1,
    "net/ipv4/conf/all/rp_filter": 0,
    "net/ipv4/conf/default/rp_filter": 0,
    "net/ipv6/conf/all/disable_ipv6": 1,
    "net/ipv6/conf/default/disable_ipv6": 1,
    "net/netfilter/nf_conntrack_events": 1,
    "net/netfilter/nf_conntrack_udp_timeout": 3600,  # no flow may time out while it is counted
}
# A namespace tracks connections only if a rule asks for their state. The link's own datagrams must not be tracked.
_RULESET = """
table ip bench {
    chain raw_in { type filter hook prerouting priority raw; iifname "sync" notrack; }
    chain raw_out { type filter hook output priority raw; oifname "sync" notrack; }
    chain forward { type filter hook forward priority filter; ct state new accept; }
}
"""


def command(*words: str, text: str = "") -> str:
    """Run a system tool and return its output. Raises BenchError if it fails."""
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"`{' '.join(words)}` failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


@contextlib.contextmanager
def entered(namespace: str) -> Iterator[None]:
    """Put this thread into a network namespace for a while: sockets and files in /proc/sys/net belong to it."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as home, Path(f"/run/netns/{namespace}").open() as there:
        if libc.setns(there.fileno(), 0) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), namespace)
        try:
            yield
        finally:
            if libc.setns(home.fileno(), 0) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Count:
    """Reads the number of entries in a namespace's conntrack table, cheaply enough for every millisecond."""

    def __init__(self, namespace: str) -> None:
        with entered(namespace):
            self._file = os.open("/proc/sys/net/netfilter/nf_conntrack_count", os.O_RDONLY)

    def __call__(self) -> int:
        """Return the number of entries now."""
        return int(os.pread(self._file, 32, 0))

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def wire_bytes() -> int:
    """Return the bytes that fw1 has sent and received on the link so far, with Ethernet headers."""
    with entered(FW1):
        rows = Path("/proc/thread-self/net/dev").read_text().splitlines()
    return parse_interface_bytes(rows, "sync")


def parse_interface_bytes(rows: list[str], interface: str) -> int:
    """Return received plus sent bytes of an interface from the lines of /proc/net/dev."""
    for row in rows:
        name, _, counters = row.partition(":")
        if name.strip() == interface:
            fields = counters.split()
            return int(fields[0]) + int(fields[8])
    raise BenchError(f"no interface {interface} in /proc/net/dev")


def flush(namespace: str) -> None:
    """Delete all entries of a namespace's conntrack table."""
    command("ip", "netns", "exec", namespace, "conntrack", "-F")


def _remove() -> None:
    """Remove the namespaces, and kill the processes that a killed benchmark left in them."""
    present = {line.split()[0] for line in command("ip", "netns", "list").splitlines() if line}
    for namespace in NAMESPACES:
        if namespace in present:
            for pid in command("ip", "netns", "pids", namespace).split():
                os.kill(int(pid), signal.SIGKILL)
            flush(namespace)  # the kernel frees the table faster, and before the next run instead of during it
            command("ip", "netns", "delete", namespace)


@contextlib.contextmanager
def exclusive() -> Iterator[None]:
    """Keep other benchmarks from this machine while the context lasts; first remove what a killed one left.

    Raises BenchError if another benchmark runs, a tool is missing, or this process is not root.
    """
    if os.geteuid() != 0:
        raise BenchError("the benchmark makes network namespaces: run it as root, or through `./dev bench`")
    for tool in ("ip", "nft", "conntrack"):
        if not shutil.which(tool):
            raise BenchError(f"{tool} is not installed: run `./dev setup`")
    with LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BenchError("another benchmark is running on this machine: wait until it is done") from None
        _remove()
        yield


@contextlib.contextmanager
def lab() -> Iterator[None]:
    """Make both firewalls, the link and the way of the traffic, with empty tables; remove all of it in every case."""
    try:
        for namespace in NAMESPACES:
            command("ip", "netns", "add", namespace)
            with entered(namespace):
                for name, value in _SYSCTLS.items():
                    Path("/proc/sys", name).write_text(str(value))
        command("ip", "-batch", "-", text=_LINKS)
        for namespace, text in _ADDRESSES.items():
            command("ip", "-n", namespace, "-batch", "-", text="link set lo up\n" + text)
        for namespace, address in SYNC_ADDRESS.items():
            command(
                "ip",
                "-n",
                namespace,
                "-batch",
                "-",
                text=f"address add {address}/25 dev sync\nlink set sync up\n",
            )
            command("ip", "netns", "exec", namespace, "nft", "-f", "-", text=_RULESET)
        yield
    finally:
        _remove()


@contextlib.contextmanager
def room_for(entries: int) -> Iterator[None]:
    """Let a conntrack table hold that many entries while the context lasts.

    The limit counts for the whole machine. Raises BenchError if it cannot be changed.
    """
    before = int(CONNTRACK_MAX.read_text())
    if before >= entries:
        yield
        return
    try:
        CONNTRACK_MAX.write_text(str(entries))
    except OSError:
        raise BenchError(
            f"a conntrack table may hold {before} entries here and this run needs {entries}: run it outside "
            f"of containers, set net.netfilter.nf_conntrack_max on the host, or choose smaller sizes"
        ) from None
    try:
        yield
    finally:
        CONNTRACK_MAX.write_text(str(before))
