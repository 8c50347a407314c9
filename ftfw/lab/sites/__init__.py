"""The places that the lab can be built in."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from ..site import Site
from . import machines, netns, vagrant

Place = AbstractAsyncContextManager[Site, bool | None]

SITES: dict[str, Callable[[Path], Place]] = {
    "namespaces": lambda _: netns.site(),
    "machines": lambda image: machines.site(image, emulated=machines.BOTH),
    "mixed": lambda image: machines.site(image, emulated=machines.ONE),
    "vagrant": lambda _: vagrant.site(),
}
