"""Defines the limits and times of authentication and freshness.  Times are seconds; docs/protocol.md lists them."""

from typing import Final

# The specification

NONCE_BYTES: Final = 8  # random bytes of a challenge
NONCE_S: Final = 5.0  # time for which the challenges to one sender carry the same bytes
ANSWER_S: Final = 2 * NONCE_S  # a RESPONSE later than this after the bytes were drawn may be a recording
WINDOW_COUNTERS: Final = 4096  # counters below the highest one that may still arrive; lower ones are refused

# Tuning

CHALLENGE_S: Final = 0.2  # between two challenges to one sender
RESPONSE_S: Final = 0.02  # between two responses, to any senders
REPLAYS_MAX: Final = 10  # replayed frames of a sender in a row, none accepted; then it is challenged in its epoch
SENDERS_MAX: Final = 64  # senders that are known or challenged at a time; the one unheard for longest goes first
EPOCHS_MAX: Final = 256  # epochs whose derived keys are kept; the one unheard for longest goes first
