"""The places that the lab can be built in."""

from ftfw.lab.daemons import DAEMONS
from ftfw.lab.installed import INSTALLED
from ftfw.lab.site import Place
from ftfw.lab.sites import machines, netns, vagrant

SITES: dict[str, Place] = {
    "namespaces": Place(daemons=DAEMONS, site=lambda _: netns.site()),
    "machines": Place(daemons=INSTALLED, site=lambda image: machines.site(image, emulated=machines.BOTH)),
    "mixed": Place(daemons=INSTALLED, site=lambda image: machines.site(image, emulated=machines.ONE)),
    "vagrant": Place(daemons=INSTALLED, site=lambda _: vagrant.site()),
}
