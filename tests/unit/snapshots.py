"""Memory snapshots of a node, as a hypervisor takes them."""

import copyreg
from copy import deepcopy
from random import Random
from typing import TypeVar

from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

T = TypeVar("T")

copyreg.pickle(AESGCMSIV, lambda _: "AESGCMSIV")  # it never changes: a copy shares it


def snapshot(node: T, random: Random) -> T:
    """The node as it is now; `random` goes on, as the kernel of a resumed machine has new random bytes."""
    return deepcopy(node, {id(random): random})
