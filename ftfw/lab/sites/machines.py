"""Firewalls that boot: virtual machines under qemu, and one that is a container, whose kernel is this machine's.

Client and server are namespaces, the cables are taps. Both kinds of firewall boot systemd from the same image, in which
vagrant/provision has installed everything; and both lose their power in the middle of whatever they do.
"""

# What the methods promise stands at Site.
# ruff: noqa: D102

import base64
import os
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import trio

from ftfw.lab import guest, plan
from ftfw.lab.host import Host, LabError, end, run_here
from ftfw.lab.sites import cgroup, ssh
from ftfw.lab.sites.netns import SWITCH, Network, network
from ftfw.lab.sites.ssh import SshHost

BOTH, ONE = frozenset(plan.FIREWALLS), frozenset({plan.FW1})
KERNEL, INITRD, DISK = "vmlinuz", "initrd", "firewall.raw"
DOOR = "203.0.113.62/26"  # the switch's own address on the sync segment: from where the lab logs in
MEMORY = "512"  # MiB
BOOT_LIMIT_S = 300
PROBE_S = 10
LET_GO_S = 5
# A machine that is emulated executes each mitigation of a flaw that its CPU does not have.
COMMAND_LINE = "root=/dev/vda rw console=ttyS0 net.ifnames=0 quiet mitigations=off"
# Lives as long as what it starts, which ends with it, and ends when its input does, which is when the lab does.
# (A parent's death would do, but for trio: to the kernel the parent is a thread, and trio's come and go.)
TIED = """
exec 3<&0
setpriv --pdeathsig KILL "$@" </dev/null 3<&- &
child=$!
setpriv --pdeathsig KILL sh -c 'cat <&3 >/dev/null; kill -KILL "$0"' "$$" </dev/null &
wait "$child"
"""
# The mounts are this shell's own, and go with it.
ROOM = """
set -e
mount -o loop,ro,noload "$1" "$2/lower"
mount -t tmpfs none "$2/over"
mkdir "$2/over/upper" "$2/over/work" "$2/over/root"
mount -t overlay none -o "lowerdir=$2/lower,upperdir=$2/over/upper,workdir=$2/over/work" "$2/over/root"
mkdir -p /run/systemd/nspawn
mount -t tmpfs none /run/systemd/nspawn
echo $$ >"$2/pid.new"
mv "$2/pid.new" "$2/pid"
exec sleep infinity
"""


class Firewall(ABC):
    """One firewall; its power is on or off."""

    def __init__(self, name: str, image: Mapping[str, str], network: Network, key: str) -> None:
        """`image` has the paths of what it boots, `key` is the one that it lets in."""
        self.name = name
        self.folder = network.workdir / name
        self.folder.mkdir()
        self._image = image
        self._network = network
        self._process: trio.Process | None = None
        # What makes it this machine: systemd-tmpfiles writes it at each boot.
        wanted = {guest.INTERFACES: guest.interfaces(name), "/root/.ssh/authorized_keys": key}
        self._credential = self.folder / "tmpfiles.extra"
        self._credential.write_text(
            "d /root/.ssh 0700 root root -\n"
            + "".join(
                f"f+~ {path} 0600 root root - {base64.b64encode(content.encode()).decode()}\n"
                for path, content in wanted.items()
            )
        )

    @abstractmethod
    async def build(self) -> None:
        """Make what outlasts a power cut."""

    @abstractmethod
    async def power_on(self) -> None:
        """Begin to boot."""

    async def power_off(self) -> None:
        """Pull the plug; it has let go of its cables and its disk when this returns."""
        if self._process is not None:
            group = self._process.pid
            with suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(group, signal.SIGKILL)
            await self._process.wait()
            self._process = None
            with trio.move_on_after(LET_GO_S):
                while _lives(group):  # noqa: ASYNC110 - nobody tells
                    await trio.sleep(0.02)

    def is_on(self) -> bool:
        """Whether it has not ended."""
        return self._process is not None and self._process.poll() is None

    async def close(self) -> None:
        """End it for good."""
        await self.power_off()

    async def _launch(self, *argv: str) -> trio.Process:
        """Start a process that ends with the lab, however that ends; what it says is on the console."""
        with (self.folder / "console").open("ab") as console:
            return await trio.lowlevel.open_process(
                ("sh", "-c", TIED, "tied", *argv),
                stdin=subprocess.PIPE,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )


class Emulated(Firewall):
    """A virtual machine."""

    def __init__(self, name: str, image: Mapping[str, str], network: Network, key: str, accelerator: str) -> None:
        super().__init__(name, image, network, key)
        self._cpu = cpu(accelerator)

    async def build(self) -> None:
        for segment in plan.SEGMENTS:
            await self._network.batch(
                SWITCH,
                [
                    f"tuntap add {self.name}-{segment} mode tap",
                    f"link set {self.name}-{segment} master {segment} up",
                ],
            )
        base = ("-F", "raw", "-b", self._image[DISK])
        await run_here("qemu-img", "create", "-q", "-f", "qcow2", *base, str(self.folder / "disk"))

    async def power_on(self) -> None:
        cards = []
        for segment in plan.SEGMENTS:
            cards += ["-netdev", f"tap,id={segment},ifname={self.name}-{segment},script=no,downscript=no"]
            cards += ["-device", f"virtio-net-pci,netdev={segment},mac={plan.mac(self.name, segment)},romfile="]
        self._process = await self._launch(
            *("ip", "netns", "exec", self._network.switch),
            *("qemu-system-x86_64", "-name", self.name, "-nodefaults", "-no-user-config", "-display", "none"),
            *("-machine", "q35,usb=off,vmport=off,smm=off", *self._cpu, "-smp", "1", "-m", MEMORY),
            *("-kernel", self._image[KERNEL], "-initrd", self._image[INITRD]),
            *("-append", f"{COMMAND_LINE} systemd.hostname={self.name}"),
            *("-drive", f"file={self.folder}/disk,format=qcow2,if=virtio,cache=unsafe"),
            *("-fw_cfg", f"name=opt/io.systemd.credentials/tmpfiles.extra,file={self._credential}"),
            *("-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"),
            *("-serial", "stdio"),
            *cards,
        )


class Contained(Firewall):
    """A container that boots: the kernel is this machine's, the rest is the image's.

    Without power its namespace is no more, and with it connection tracking's table and the addresses.
    """

    _room: trio.Process | None = None

    async def build(self) -> None:
        for name in ("lower", "over"):
            (self.folder / name).mkdir()
        # Namespaces that come later are seen in there, too.
        apart = ("unshare", "--mount", "--propagation", "slave")
        self._room = await self._launch(*apart, "sh", "-c", ROOM, "room", self._image[DISK], str(self.folder))
        while not (self.folder / "pid").exists():
            if self._room.poll() is not None:
                complaint = (self.folder / "console").read_text(errors="replace").strip()
                raise LabError(f"the image cannot be mounted: {complaint}; that takes a loop device and overlayfs")
            await trio.sleep(0.05)

    async def power_on(self) -> None:
        room = (self.folder / "pid").read_text().strip()
        await self._network.add(self.name)
        self._process = await self._launch(
            *cgroup.entering(self._network.namespace(self.name)),
            *("nsenter", f"--mount=/proc/{room}/ns/mnt"),
            *("env", "SYSTEMD_NSPAWN_API_VFS_WRITABLE=network"),  # sysctls
            *("systemd-nspawn", "--quiet", f"--directory={self.folder}/over/root"),
            *(f"--machine={self.name}", f"--hostname={self.name}"),
            *("--register=no", "--keep-unit", "--link-journal=no", "--capability=CAP_NET_ADMIN", "--console=pipe"),
            f"--network-namespace-path=/run/netns/{self._network.namespace(self.name)}",
            *(f"--load-credential=tmpfiles.extra:{self._credential}", "--boot"),
        )

    async def power_off(self) -> None:
        if self._process is not None:
            await super().power_off()
            await self._network.delete(self.name)
            await cgroup.remove_when_empty(self._network.namespace(self.name))

    async def close(self) -> None:
        await super().close()
        if self._room is not None:
            await end(self._room)


class MachinesSite:
    """Firewalls that boot, between namespaces."""

    patience = 3.0
    missing_rules = ""

    def __init__(self, network: Network, firewalls: Mapping[str, Firewall], key: Path) -> None:
        self._network = network
        self._firewalls = firewalls
        config = network.workdir / "ssh_config"
        addresses = {name: plan.ADDRESSES[name][plan.SYNC][0].partition("/")[0] for name in firewalls}
        config.write_text(
            "".join(f"Host {name}\n    HostName {address}\n" for name, address in addresses.items())
            + f"Host *\n    User root\n    IdentityFile {key}\n    IdentitiesOnly yes\n"
            + "".join(f"    {option} {value}\n" for option, value in ssh.OPTIONS.items())
        )
        into = ("ip", "netns", "exec", network.switch)
        self._doors = {name: SshHost(name, config, prefix=into) for name in firewalls}
        self.hosts: Mapping[str, Host] = dict(self._doors)
        self.flowtables: frozenset[str] = frozenset()

    async def build(self) -> None:
        """Boot the firewalls, and make the ends meanwhile."""
        await self._network.batch(SWITCH, ["link set lo up", f"address add {DOOR} dev {plan.SYNC}"])
        for firewall in self._firewalls.values():
            await firewall.build()
            await firewall.power_on()
        ends = {name: await self._network.add_host(name) for name in (plan.CLIENT, plan.SERVER)}
        self.hosts = {**ends, **self._doors}
        for name in self._firewalls:
            await self._arrive(name)
        self.flowtables = frozenset([name for name, host in self._doors.items() if await ssh.has_flowtables(host)])

    async def _arrive(self, name: str) -> None:
        firewall = self._firewalls[name]
        try:
            await self._doors[name].connect(BOOT_LIMIT_S, firewall.is_on)
        except LabError as error:
            console = (firewall.folder / "console").read_text(errors="replace").strip()
            raise LabError(f"{error}; its console said at last:\n{console[-2000:]}") from None

    async def add_rules(self, name: str, text: str) -> None:
        await ssh.add_rules(self._doors[name], text)

    async def cut(self, name: str) -> None:
        await self._firewalls[name].power_off()
        await self._doors[name].disconnect()

    async def heal(self, name: str) -> None:
        await self._firewalls[name].power_on()
        await self._arrive(name)

    async def describe(self) -> Sequence[str]:
        ends = [f"ip netns exec {self._network.namespace(name)} bash" for name in (plan.CLIENT, plan.SERVER, SWITCH)]
        into = f"ip netns exec {self._network.switch} ssh -F {self._network.workdir}/ssh_config"
        return [*ends, *(f"{into} {name}" for name in self._doors)]

    async def close(self) -> None:
        """Cut all power for good."""
        for door in self._doors.values():
            await door.disconnect()
        for firewall in self._firewalls.values():
            await firewall.close()


def _lives(group: int) -> bool:
    """Whether any process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def cpu(accelerator: str) -> tuple[str, ...]:
    """Return what qemu is told of its CPU."""
    if accelerator == "kvm":
        return "-accel", "kvm", "-cpu", "host"
    return "-accel", "tcg,thread=multi", "-cpu", "qemu64"


async def accelerator(kernel: str) -> str:
    """Return `kvm` if a kernel gets through its boot with it, and `tcg` otherwise: /dev/kvm alone proves nothing.

    The kernel finds no root, panics and reboots, upon which qemu ends.
    """
    if not os.access("/dev/kvm", os.W_OK):
        return "tcg"
    done = await trio.run_process(
        [
            *("timeout", "-s", "KILL", str(PROBE_S)),  # which ends it even if nobody lives to do so
            *("qemu-system-x86_64", "-nodefaults", "-display", "none", *cpu("kvm"), "-m", MEMORY, "-no-reboot"),
            *("-kernel", kernel, "-append", "panic=-1"),
        ],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    return "tcg" if done.returncode else "kvm"


@contextmanager
def opened(image: Path) -> Iterator[Mapping[str, str]]:
    """Keep what the machines boot open, and return its paths: an image that is made meanwhile is for the next lab."""
    with ExitStack() as stack:
        paths = {}
        for name in (KERNEL, INITRD, DISK):
            try:
                file = stack.enter_context((image / name).open("rb"))
            except FileNotFoundError:
                raise LabError(f"{image / name} is not there: vagrant/box/install makes it") from None
            paths[name] = f"/proc/{os.getpid()}/fd/{file.fileno()}"
        yield paths


@asynccontextmanager
async def site(image: Path, *, emulated: frozenset[str]) -> AsyncIterator[MachinesSite]:
    """Boot both firewalls, `emulated` ones and containers, hand the lab out, and remove it whatever happens."""
    for tool in ("qemu-system-x86_64", "qemu-img", "systemd-nspawn"):
        if shutil.which(tool) is None:
            raise LabError(f"{tool} is not installed: ./dev setup-vm installs what machines need")
    with opened(image) as files:
        async with network() as built:
            key = built.workdir / "key"
            await run_here("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(key))
            public = key.with_suffix(".pub").read_text()
            by = await accelerator(files[KERNEL])
            firewalls: dict[str, Firewall] = {}
            for name in plan.FIREWALLS:
                machine = (name, files, built, public)
                firewalls[name] = Emulated(*machine, by) if name in emulated else Contained(*machine)
            made = MachinesSite(built, firewalls, key)
            try:
                await made.build()
                yield made
            finally:
                with trio.CancelScope(shield=True):
                    await made.close()
