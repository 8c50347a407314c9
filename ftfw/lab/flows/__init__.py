"""Lists every flow of the lab, in the order of the table."""

from ftfw.lab.flows import crowd_flows, ftp_flows, gre_flows, program_flows, tcp_flows, tftp_flows, udp_flows
from ftfw.lab.flows.flow_base import LabFlow


def catalogue() -> list[LabFlow]:
    """Return a new object for each flow; their names are unique."""
    flows = [
        *tcp_flows.flows(),
        *crowd_flows.flows(),
        *program_flows.flows(),
        *udp_flows.flows(),
        *gre_flows.flows(),
        *tftp_flows.flows(),
        *ftp_flows.flows(),
    ]
    assert len({flow.name for flow in flows}) == len(flows)
    return flows
