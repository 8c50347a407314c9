"""Defines the limits and times of replication.  Times are seconds; docs/protocol.md lists them from here.

The first part belongs to the specification: nodes that differ in one of these do not work together.  The second part
is tuning: each node may have values of its own.
"""

from typing import Final

# The specification

HEARTBEAT_S: Final = 0.1  # between two heartbeats
FRESH_S: Final = 1.0  # a node unheard for longer is in sync with nobody, and an active unheard for longer may be left
PEER_LOST_S: Final = 3.0  # a node unheard for longer counts as absent: nothing waits for it
FACTS_S: Final = 5.0  # between two FACTS
UNPACKED_MAX: Final = 1 << 20  # bytes of one frame's messages, unpacked: far above what an MTU of 65535 can hold
BUCKET_BITS_MAX: Final = 20  # 2^20 buckets, for eight million entries
BUCKETS_MAX: Final = 128  # buckets that one WANT or SCOPE names
WANTED_MAX: Final = 16384  # buckets that differ; with more of them a whole snapshot is shorter
FACTS_MAX: Final = 32  # facts in one FACTS, and texts in one list
FACT_TEXT_MAX: Final = 64  # characters of a text in FACTS

# Tuning: the active

SNAPSHOT_WINDOW: Final = 256  # frames by which a backup may be behind during a snapshot
KEPT_BYTES: Final = 32 << 20  # of frames that can be sent again; a backup that is further behind gets a snapshot
RESEND_S: Final = 0.02  # between two resends of one frame: several backups may miss the same frame
RESEND_FRAMES: Final = 256  # frames sent again for one ACK; the backup asks for the rest once more
BUCKET_ENTRIES: Final = 8  # entries of a bucket: a compare sends about half a byte for each entry

# Tuning: the backup

READY_S: Final = 10.0  # a backup that has heard no active for so long is ready to take over, however little it holds
RESYNC_RETRY_S: Final = 0.5  # between two requests for a snapshot, a compare or buckets
ACK_FRAMES: Final = 128  # frames after which a backup acknowledges at the latest,
ACK_S: Final = 0.1  # or the time after which it does
NACK_S: Final = 0.03  # between two requests for missing frames
MISSING_MAX: Final = 64  # ranges of missing frames that one ACK names; the rest is named when these have come
WAITING_FRAMES: Final = 4096  # frames that wait behind a gap; with more of them the gap is given up
WAITING_BYTES: Final = 128 << 20  # bytes that these unpack to: full frames of an MTU of 1500 have room
STEP_FRAMES: Final = 16  # waiting frames that are applied in one step
STEP_ENTRIES: Final = 1024  # entries of the store that are looked at in one step
STEP_BUCKETS: Final = 16384  # buckets that are compared in one step

# Tuning: the other nodes

PEERS_MAX: Final = 64  # names that are known at a time; the one unheard for longest is forgotten first
CONFLICT_S: Final = 0.5  # for so long two nodes have been active together: at a takeover one follows the other
