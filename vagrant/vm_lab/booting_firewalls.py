"""Firewalls that boot: virtual machines under qemu, and containers that boot on this machine's kernel.

Both boot systemd from the same image, in which vagrant/provision has installed everything, and both lose their power
at any moment.
"""

# BootingFirewall describes what the methods promise.
# ruff: noqa: D102

import base64
import os
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import trio

from ftfw.lab import topology
from ftfw.lab.lab_host import LabError, end, run_here
from ftfw.lab.namespaces import SWITCH, Network
from vagrant.vm_lab import control_groups, guest_files

KERNEL, INITRD, DISK = "vmlinuz", "initrd", "firewall.raw"
MEMORY = "512"  # MiB
PROBE_LIMIT_S = 10
EXIT_LIMIT_S = 5
# mitigations=off: they cost an emulated machine time, and its CPU does not have the flaws.
COMMAND_LINE = "root=/dev/vda rw console=ttyS0 net.ifnames=0 quiet mitigations=off"
# The shell runs a command, ends with it, and kills it when its own input ends, which is when the lab ends.
# (pdeathsig of the lab's process is no help: the kernel takes the thread for the parent, and trio's threads end early.)
TIED = """
exec 3<&0
setpriv --pdeathsig KILL "$@" </dev/null 3<&- &
child=$!
setpriv --pdeathsig KILL sh -c 'cat <&3 >/dev/null; kill -KILL "$0"' "$$" </dev/null &
wait "$child"
"""
# The mounts are in this shell's mount namespace, and disappear with it.
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


class BootingFirewall(ABC):
    """Switches one firewall on and off."""

    def __init__(self, name: str, image: Mapping[str, str], network: Network, key: str) -> None:
        """Write the files that make the booted system this firewall.

        `image` has the paths of the boot files by name; `key` is the public ssh key that the firewall accepts.
        """
        self.name = name
        self.folder = network.workdir / name
        self.folder.mkdir()
        self._image = image
        self._network = network
        self._process: trio.Process | None = None
        # systemd-tmpfiles writes these files at each boot.
        wanted = {guest_files.INTERFACES: guest_files.interfaces(name), "/root/.ssh/authorized_keys": key}
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
        """Make the parts that survive a power cut."""

    @abstractmethod
    async def power_on(self) -> None:
        """Start to boot."""

    async def power_off(self) -> None:
        """Kill the firewall; it uses neither its cables nor its disk when this returns."""
        if self._process is not None:
            group = self._process.pid
            with suppress(ProcessLookupError):  # it has ended
                os.killpg(group, signal.SIGKILL)
            await self._process.wait()
            self._process = None
            with trio.move_on_after(EXIT_LIMIT_S):
                while _lives(group):  # noqa: ASYNC110 - the kernel sends no notice
                    await trio.sleep(0.02)

    def is_on(self) -> bool:
        """Tell whether the firewall runs."""
        return self._process is not None and self._process.poll() is None

    async def close(self) -> None:
        """Switch the firewall off for the last time."""
        await self.power_off()

    async def _launch(self, *argv: str) -> trio.Process:
        """Start a process that ends with the lab in every case; its output goes to the file `console`."""
        with (self.folder / "console").open("ab") as console:
            return await trio.lowlevel.open_process(
                ("sh", "-c", TIED, "tied", *argv),
                stdin=subprocess.PIPE,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )


class EmulatedFirewall(BootingFirewall):
    """Runs a virtual machine under qemu."""

    def __init__(self, name: str, image: Mapping[str, str], network: Network, key: str, accelerator: str) -> None:
        super().__init__(name, image, network, key)
        self._cpu = cpu_options(accelerator)

    async def build(self) -> None:
        for segment in topology.SEGMENTS:
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
        for segment in topology.SEGMENTS:
            cards += ["-netdev", f"tap,id={segment},ifname={self.name}-{segment},script=no,downscript=no"]
            cards += [
                "-device",
                f"virtio-net-pci,netdev={segment},mac={guest_files.hardware_address(self.name, segment)},romfile=",
            ]
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


class ContainerFirewall(BootingFirewall):
    """Runs a container that boots: it has this machine's kernel, and everything else from the image.

    When it is switched off, its network namespace is deleted, and with it the conntrack table and the addresses.
    """

    _room: trio.Process | None = None

    async def build(self) -> None:
        for name in ("lower", "over"):
            (self.folder / name).mkdir()
        # Propagation: namespaces that are made later are visible in there, too.
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
            *control_groups.entering(self._network.namespace(self.name)),
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
            await control_groups.remove_when_empty(self._network.namespace(self.name))

    async def close(self) -> None:
        await super().close()
        if self._room is not None:
            await end(self._room)


def _lives(group: int) -> bool:
    """Tell whether a process of a process group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def cpu_options(accelerator: str) -> tuple[str, ...]:
    """Return the options by which qemu gets its CPU."""
    if accelerator == "kvm":
        return "-accel", "kvm", "-cpu", "host"
    return "-accel", "tcg,thread=multi", "-cpu", "qemu64"


async def accelerator(kernel: str) -> str:
    """Return `kvm` if a kernel boots with it, and `tcg` (emulation) otherwise: /dev/kvm alone proves nothing.

    `kernel` is the path of the kernel to try. It finds no root, panics and reboots, and then qemu ends.
    """
    if not os.access("/dev/kvm", os.W_OK):
        return "tcg"
    done = await trio.run_process(
        [
            *("timeout", "-s", "KILL", str(PROBE_LIMIT_S)),  # ends qemu even if the lab was killed
            *("qemu-system-x86_64", "-nodefaults", "-display", "none", *cpu_options("kvm"), "-m", MEMORY, "-no-reboot"),
            *("-kernel", kernel, "-append", "panic=-1"),
        ],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    return "tcg" if done.returncode else "kvm"


@contextmanager
def open_image(image: Path) -> Iterator[Mapping[str, str]]:
    """Open the boot files of an image while the context lasts, and yield their paths by name.

    An image that is made anew in the meantime is for the next lab. Raises LabError if a file is missing.
    """
    with ExitStack() as stack:
        paths = {}
        for name in (KERNEL, INITRD, DISK):
            try:
                file = stack.enter_context((image / name).open("rb"))
            except FileNotFoundError:
                raise LabError(f"{image / name} is not there: vagrant/box/install makes it") from None
            paths[name] = f"/proc/{os.getpid()}/fd/{file.fileno()}"
        yield paths
