"""Every flow of the lab, in the order of the table."""

from . import crowd, ftp, gre, programs, tcp, tftp, udp
from .base import Flow


def catalogue() -> list[Flow]:
    """Return fresh flows; names are unique."""
    flows = [
        *tcp.flows(),
        *crowd.flows(),
        *programs.flows(),
        *udp.flows(),
        *gre.flows(),
        *tftp.flows(),
        *ftp.flows(),
    ]
    assert len({flow.name for flow in flows}) == len(flows)
    return flows
