"""Name the kernel's numbers as its headers do (linux/netfilter/nfnetlink_conntrack.h and others)."""

from typing import Final

NETLINK_NETFILTER: Final = 12
SOL_NETLINK: Final = 270
NETLINK_ADD_MEMBERSHIP: Final = 1
NETLINK_EXT_ACK: Final = 11
NETLINK_CAP_ACK: Final = 10

NLMSG_NOOP: Final = 1
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3

NLM_F_REQUEST: Final = 0x001
NLM_F_MULTI: Final = 0x002
NLM_F_ACK: Final = 0x004
NLM_F_DUMP: Final = 0x300
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400

NLA_F_NESTED: Final = 0x8000
NLA_TYPE_MASK: Final = 0x3FFF

AF_INET: Final = 2
AF_INET6: Final = 10

# nfnetlink subsystems and messages; a message type is subsystem << 8 | message.
CT_NEW: Final = 0x100
CT_GET: Final = 0x101
CT_DELETE: Final = 0x102
EXP_NEW: Final = 0x200
EXP_GET: Final = 0x201
EXP_DELETE: Final = 0x202

NFNLGRP_CONNTRACK_NEW: Final = 1
NFNLGRP_CONNTRACK_UPDATE: Final = 2
NFNLGRP_CONNTRACK_DESTROY: Final = 3
NFNLGRP_CONNTRACK_EXP_NEW: Final = 4
NFNLGRP_CONNTRACK_EXP_UPDATE: Final = 5
NFNLGRP_CONNTRACK_EXP_DESTROY: Final = 6

# enum ctattr_type
CTA_TUPLE_ORIG: Final = 1
CTA_TUPLE_REPLY: Final = 2
CTA_STATUS: Final = 3
CTA_PROTOINFO: Final = 4
CTA_HELP: Final = 5
CTA_NAT_SRC: Final = 6
CTA_TIMEOUT: Final = 7
CTA_MARK: Final = 8
CTA_COUNTERS_ORIG: Final = 9
CTA_COUNTERS_REPLY: Final = 10
CTA_USE: Final = 11
CTA_ID: Final = 12
CTA_NAT_DST: Final = 13
CTA_TUPLE_MASTER: Final = 14
CTA_SEQ_ADJ_ORIG: Final = 15
CTA_SEQ_ADJ_REPLY: Final = 16
CTA_ZONE: Final = 18
CTA_SECCTX: Final = 19
CTA_TIMESTAMP: Final = 20
CTA_LABELS: Final = 22
CTA_SYNPROXY: Final = 24
CTA_STATUS_MASK: Final = 26
CTA_TIMESTAMP_EVENT: Final = 27

# enum ctattr_tuple
CTA_TUPLE_IP: Final = 1
CTA_TUPLE_PROTO: Final = 2
CTA_TUPLE_ZONE: Final = 3

# enum ctattr_ip
CTA_IP_V4_SRC: Final = 1
CTA_IP_V4_DST: Final = 2
CTA_IP_V6_SRC: Final = 3
CTA_IP_V6_DST: Final = 4

# enum ctattr_l4proto
CTA_PROTO_NUM: Final = 1
CTA_PROTO_SRC_PORT: Final = 2
CTA_PROTO_DST_PORT: Final = 3
CTA_PROTO_ICMP_ID: Final = 4
CTA_PROTO_ICMP_TYPE: Final = 5
CTA_PROTO_ICMP_CODE: Final = 6
CTA_PROTO_ICMPV6_ID: Final = 7
CTA_PROTO_ICMPV6_TYPE: Final = 8
CTA_PROTO_ICMPV6_CODE: Final = 9

# enum ctattr_protoinfo, _tcp, _sctp
CTA_PROTOINFO_TCP: Final = 1
CTA_PROTOINFO_SCTP: Final = 3
CTA_PROTOINFO_TCP_STATE: Final = 1
CTA_PROTOINFO_TCP_WSCALE_ORIGINAL: Final = 2
CTA_PROTOINFO_TCP_WSCALE_REPLY: Final = 3
CTA_PROTOINFO_TCP_FLAGS_ORIGINAL: Final = 4
CTA_PROTOINFO_TCP_FLAGS_REPLY: Final = 5
CTA_PROTOINFO_SCTP_STATE: Final = 1
CTA_PROTOINFO_SCTP_VTAG_ORIGINAL: Final = 2
CTA_PROTOINFO_SCTP_VTAG_REPLY: Final = 3

# enum ctattr_nat, ctattr_protonat
CTA_NAT_V4_MINIP: Final = 1
CTA_NAT_V4_MAXIP: Final = 2
CTA_NAT_PROTO: Final = 3
CTA_NAT_V6_MINIP: Final = 4
CTA_NAT_V6_MAXIP: Final = 5
CTA_PROTONAT_PORT_MIN: Final = 1
CTA_PROTONAT_PORT_MAX: Final = 2

# enum ctattr_seqadj, ctattr_synproxy, ctattr_help
CTA_SEQADJ_CORRECTION_POS: Final = 1
CTA_SEQADJ_OFFSET_BEFORE: Final = 2
CTA_SEQADJ_OFFSET_AFTER: Final = 3
CTA_SYNPROXY_ISN: Final = 1
CTA_SYNPROXY_ITS: Final = 2
CTA_SYNPROXY_TSOFF: Final = 3
CTA_HELP_NAME: Final = 1
CTA_HELP_INFO: Final = 2

# enum ctattr_counters, ctattr_tstamp
CTA_COUNTERS_PACKETS: Final = 1
CTA_COUNTERS_BYTES: Final = 2
CTA_TIMESTAMP_START: Final = 1
CTA_TIMESTAMP_STOP: Final = 2

# enum ctattr_expect, ctattr_expect_nat
CTA_EXPECT_MASTER: Final = 1
CTA_EXPECT_TUPLE: Final = 2
CTA_EXPECT_MASK: Final = 3
CTA_EXPECT_TIMEOUT: Final = 4
CTA_EXPECT_ID: Final = 5
CTA_EXPECT_HELP_NAME: Final = 6
CTA_EXPECT_ZONE: Final = 7
CTA_EXPECT_FLAGS: Final = 8
CTA_EXPECT_CLASS: Final = 9
CTA_EXPECT_NAT: Final = 10
CTA_EXPECT_FN: Final = 11
CTA_EXPECT_NAT_DIR: Final = 1
CTA_EXPECT_NAT_TUPLE: Final = 2

NF_CT_EXPECT_PERMANENT: Final = 1
NF_CT_EXPECT_INACTIVE: Final = 2
NF_CT_EXPECT_USERSPACE: Final = 4

# enum ip_conntrack_status
IPS_EXPECTED: Final = 1 << 0
IPS_SEEN_REPLY: Final = 1 << 1
IPS_ASSURED: Final = 1 << 2
IPS_CONFIRMED: Final = 1 << 3
IPS_SRC_NAT: Final = 1 << 4
IPS_DST_NAT: Final = 1 << 5
IPS_SEQ_ADJUST: Final = 1 << 6
IPS_SRC_NAT_DONE: Final = 1 << 7
IPS_DST_NAT_DONE: Final = 1 << 8
IPS_DYING: Final = 1 << 9
IPS_FIXED_TIMEOUT: Final = 1 << 10
IPS_HELPER: Final = 1 << 13
IPS_OFFLOAD: Final = 1 << 14
IPS_HW_OFFLOAD: Final = 1 << 15

STATUS_NAMES: Final = {
    IPS_EXPECTED: "expected",
    IPS_SEEN_REPLY: "seen_reply",
    IPS_ASSURED: "assured",
    IPS_CONFIRMED: "confirmed",
    IPS_SRC_NAT: "src_nat",
    IPS_DST_NAT: "dst_nat",
    IPS_SEQ_ADJUST: "seq_adjust",
    IPS_SRC_NAT_DONE: "src_nat_done",
    IPS_DST_NAT_DONE: "dst_nat_done",
    IPS_DYING: "dying",
    IPS_FIXED_TIMEOUT: "fixed_timeout",
    IPS_HELPER: "helper",
    IPS_OFFLOAD: "offload",
    IPS_HW_OFFLOAD: "hw_offload",
}

# enum tcp_conntrack, enum sctp_conntrack
TCP_STATES: Final = (
    "NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE",
    "SYN_SENT2",
)  # fmt: skip
TCP_ESTABLISHED: Final = 3
SCTP_ESTABLISHED: Final = 4
SCTP_STATES: Final = (
    "NONE", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED", "SHUTDOWN_SENT", "SHUTDOWN_RECD",
    "SHUTDOWN_ACK_SENT", "HEARTBEAT_SENT", "HEARTBEAT_ACKED",
)  # fmt: skip

IP_CT_TCP_FLAG_WINDOW_SCALE: Final = 0x01
IP_CT_TCP_FLAG_BE_LIBERAL: Final = 0x08
# Bits that change in the table without an event (IP_CT_TCP_FLAG_DATA_UNACKNOWLEDGED, _MAXACK_SET).
TCP_FLAGS_SILENT: Final = 0x30

IPPROTO_ICMP: Final = 1
IPPROTO_TCP: Final = 6
IPPROTO_UDP: Final = 17
IPPROTO_DCCP: Final = 33
IPPROTO_GRE: Final = 47
IPPROTO_ICMPV6: Final = 58
IPPROTO_SCTP: Final = 132
IPPROTO_UDPLITE: Final = 136
PROTOCOL_NAMES: Final = {
    IPPROTO_ICMP: "icmp", IPPROTO_TCP: "tcp", IPPROTO_UDP: "udp", IPPROTO_DCCP: "dccp", IPPROTO_GRE: "gre",
    IPPROTO_ICMPV6: "icmpv6", IPPROTO_SCTP: "sctp", IPPROTO_UDPLITE: "udplite",
}  # fmt: skip
