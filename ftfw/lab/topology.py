"""Names the hosts, networks, addresses, ports and sysctls of every lab.

All addresses are documentation addresses; the ruleset files of the lab name the same ones.
"""

CLIENT, SERVER, FW1, FW2 = "client", "server", "fw1", "fw2"
FIREWALLS = (FW1, FW2)

LAN, WAN, SYNC = "lan", "wan", "sync"

# The virtual addresses: the gateway of the inside, and the outside address that the inside is translated to.
VIRTUAL = {
    LAN: ("192.0.2.1", "2001:db8:1::1"),
    WAN: ("198.51.100.1", "2001:db8:2::1"),
}
OUTSIDE4, OUTSIDE6 = VIRTUAL[WAN]

# Source addresses of the client host; the ruleset treats each one differently.
PLAIN4, PLAIN6 = "192.0.2.10", "2001:db8:1::10"
SNAT4, SNAT6 = "192.0.2.11", "2001:db8:1::11"
ZONED4 = "192.0.2.12"
HALF_ZONED4 = "192.0.2.13"
MARKED4 = "192.0.2.14"
CALLER4 = "192.0.2.15"
OFFLOADED4 = "192.0.2.16"
PUBLISHED4, PUBLISHED6 = "192.0.2.20", "2001:db8:1::20"

# Addresses of the server host: of its servers, and of the client that connects from outside.
SERVER4, SERVER6 = "198.51.100.80", "2001:db8:2::80"
OUTSIDER4, OUTSIDER6 = "198.51.100.90", "2001:db8:2::90"

# Addresses with prefix length by host and interface.
ADDRESSES: dict[str, dict[str, tuple[str, ...]]] = {
    CLIENT: {
        LAN: tuple(
            f"{address}/24"
            for address in (PLAIN4, SNAT4, ZONED4, HALF_ZONED4, MARKED4, CALLER4, OFFLOADED4, PUBLISHED4)
        )
        + tuple(f"{address}/64" for address in (PLAIN6, SNAT6, PUBLISHED6)),
    },
    SERVER: {WAN: (f"{SERVER4}/24", f"{OUTSIDER4}/24", f"{SERVER6}/64", f"{OUTSIDER6}/64")},
    FW1: {
        LAN: ("192.0.2.2/24", "2001:db8:1::2/64"),
        WAN: ("198.51.100.2/24", "2001:db8:2::2/64"),
        SYNC: ("203.0.113.1/26",),
    },
    FW2: {
        LAN: ("192.0.2.3/24", "2001:db8:1::3/64"),
        WAN: ("198.51.100.3/24", "2001:db8:2::3/64"),
        SYNC: ("203.0.113.2/26",),
    },
}
SEGMENTS = (LAN, WAN, SYNC)
GATEWAYS = {CLIENT: VIRTUAL[LAN], SERVER: VIRTUAL[WAN]}

SYSCTLS_HOST = {
    # No duplicate address detection: an address can be used at once, also after a virtual address has moved.
    "net.ipv6.conf.all.accept_dad": "0",
    "net.ipv6.conf.default.accept_dad": "0",
    "net.ipv6.conf.default.accept_ra": "0",
}
SYSCTLS_FIREWALL = SYSCTLS_HOST | {
    "net.ipv4.ip_forward": "1",
    "net.ipv6.conf.all.forwarding": "1",
    "net.ipv4.conf.all.send_redirects": "0",
    "net.ipv4.conf.default.send_redirects": "0",
    "net.netfilter.nf_conntrack_events": "1",
    "net.netfilter.nf_conntrack_tcp_loose": "0",
    "net.netfilter.nf_conntrack_tcp_be_liberal": "0",
}

MODULES = (
    "nf_conntrack",
    "nf_conntrack_netlink",
    *(f"nf_{half}_{helper}" for helper in ("ftp", "tftp") for half in ("conntrack", "nat")),
)

SYNC_GROUP, SYNC_PORT = "225.0.0.50", 3780

# The ports of the agents' services; lab.nft lets them through.
ECHO_PORT, STREAM_PORT, SPEAK_PORT = 7007, 7019, 7008
FTP_PORT, TFTP_PORT, LATE_TFTP_PORT = 21, 69, 6969

DNS_NAME, DNS_ANSWER = "lab.example", "192.0.2.53"
FILES, BIG_FILE, SMALL_FILE = "files", "big", "small"
SMALL_TEXT = "A file worth a firewall's trouble."
SSH_KEY_FILE = "ssh-key"
AUTHORIZED_KEYS_FILE = "authorized-keys"  # vagrant/provision names it to the sshd of a machine
