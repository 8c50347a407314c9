"""Files that make a Debian machine a host of the lab: its network, its sysctls and its modules.

`python -m vagrant.vm_lab.guest_files HOST` writes them; they take effect at the next boot.
"""

import sys
from ipaddress import ip_interface
from pathlib import Path

from ftfw.lab import topology

MACHINES = (topology.FW1, topology.FW2, topology.CLIENT, topology.SERVER)
"""Names of all machines in the order of the Vagrantfile; the hardware addresses depend on the order."""
INTERFACES = "/etc/network/interfaces.d/lab"
# The timeouts: in an emulated machine, minutes pass between an announcement and the takeover. Accounting: ftfw as a
# service may not switch on what it needs for GRE (conf/sysctl.conf).
FIREWALL_SYSCTLS = topology.SYSCTLS_FIREWALL | {
    "net.netfilter.nf_conntrack_acct": "1",
    "net.netfilter.nf_conntrack_udp_timeout": "600",
    "net.netfilter.nf_conntrack_udp_timeout_stream": "600",
}


def hardware_address(machine: str, segment: str) -> str:
    """Return the hardware address of a machine's card on a segment."""
    return f"02:00:00:00:0{MACHINES.index(machine) + 1}:0{topology.SEGMENTS.index(segment) + 1}"


def interfaces(machine: str) -> str:
    """Return the ifupdown configuration: the addresses of a machine, except the virtual ones, and its routes."""
    lines = []
    for interface, addresses in topology.ADDRESSES[machine].items():
        lines += [f"auto {interface}", f"iface {interface} inet manual", f"    up ip link set {interface} up"]
        # `replace`: the address may still be there when the interface is brought up again.
        for address in addresses:
            nodad = " nodad" if ":" in address else ""
            lines.append(f"    up ip address replace {address} dev {interface}{nodad}")
        lines += [f"    up ip route replace {network} via {gateway}" for network, gateway in routes(machine)]
    return "\n".join(lines) + "\n"


def routes(machine: str) -> list[tuple[str, str]]:
    """Return the networks behind the firewalls, each with its gateway; a machine keeps its own default route."""
    if machine in topology.FIREWALLS:
        return []
    beyond = topology.WAN if topology.LAN in topology.ADDRESSES[machine] else topology.LAN
    networks = [str(ip_interface(address).network) for address in topology.ADDRESSES[topology.FW1][beyond]]
    return list(zip(networks, topology.GATEWAYS[machine], strict=True))


def link(segment: str) -> str:
    """Return the systemd.link(5) that gives all cards on a segment the segment's name."""
    cards = " ".join(hardware_address(machine, segment) for machine in MACHINES)
    return f"[Match]\nMACAddress={cards}\n\n[Link]\nName={segment}\n"


def guest_files(machine: str) -> dict[str, str]:
    """Return the content of each file of a machine by its path."""
    firewall = machine in topology.FIREWALLS
    sysctls = FIREWALL_SYSCTLS if firewall else topology.SYSCTLS_HOST
    return {
        INTERFACES: interfaces(machine),
        "/etc/sysctl.d/lab.conf": "".join(f"{key} = {value}\n" for key, value in sysctls.items()),
        "/etc/modules-load.d/lab.conf": "".join(f"{module}\n" for module in topology.MODULES if firewall),
        **{f"/etc/systemd/network/10-{segment}.link": link(segment) for segment in topology.SEGMENTS},
    }


def main(machine: str) -> None:
    """Write the files of a machine."""
    for path, content in guest_files(machine).items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(content)


if __name__ == "__main__":
    main(*sys.argv[1:])
