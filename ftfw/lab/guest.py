"""What makes a Debian machine one of the lab's: its network, its sysctls and its modules, as files.

`python -m ftfw.lab.guest HOST` writes them; they count from the next boot on.
"""

import sys
from ipaddress import ip_interface
from pathlib import Path

from ftfw.lab import plan

INTERFACES = "/etc/network/interfaces.d/lab"


def interfaces(host: str) -> str:
    """Return how ifupdown gives the host its addresses, all but the virtual ones, and its gateways."""
    lines = []
    for interface, addresses in plan.ADDRESSES[host].items():
        lines += [f"auto {interface}", f"iface {interface} inet manual", f"    up ip link set {interface} up"]
        # `replace`, so that an interface that is brought up again finds nothing in its way.
        for address in addresses:
            nodad = " nodad" if ":" in address else ""
            lines.append(f"    up ip address replace {address} dev {interface}{nodad}")
        lines += [f"    up ip route replace {network} via {gateway}" for network, gateway in routes(host)]
    return "\n".join(lines) + "\n"


def routes(host: str) -> list[tuple[str, str]]:
    """Return the networks beyond the firewalls, with the way to each; the rest of the world is reached otherwise."""
    if host in plan.FIREWALLS:
        return []
    beyond = plan.WAN if plan.LAN in plan.ADDRESSES[host] else plan.LAN
    networks = [str(ip_interface(address).network) for address in plan.ADDRESSES[plan.FW1][beyond]]
    return list(zip(networks, plan.GATEWAYS[host], strict=True))


def link(segment: str) -> str:
    """Return the systemd.link(5) that gives all cards on a segment its name."""
    cards = " ".join(plan.mac(host, segment) for host in plan.HOSTS)
    return f"[Match]\nMACAddress={cards}\n\n[Link]\nName={segment}\n"


def files(host: str) -> dict[str, str]:
    """Return the content of each file by its path."""
    firewall = host in plan.FIREWALLS
    sysctls = plan.SYSCTLS_INSTALLED if firewall else plan.SYSCTLS_HOST
    return {
        INTERFACES: interfaces(host),
        "/etc/sysctl.d/lab.conf": "".join(f"{key} = {value}\n" for key, value in sysctls.items()),
        "/etc/modules-load.d/lab.conf": "".join(f"{module}\n" for module in plan.MODULES if firewall),
        **{f"/etc/systemd/network/10-{segment}.link": link(segment) for segment in plan.SEGMENTS},
    }


def main(host: str) -> None:
    """Write the files of that host."""
    for path, content in files(host).items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(content)


if __name__ == "__main__":
    main(*sys.argv[1:])
