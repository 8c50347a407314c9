"""Runs the failover lab: real traffic between a client and a server, through two firewalls; the active is cut off.

The modules use each other in this direction::

    lab_command → lab_session → failover_run → site (hosts and cables) → real_servers, replication_daemons, agent_client
    agent (one process on each host) → flows, agent_services, announcements
    failover_run → verdicts → lab_report

A place where the lab runs implements `lab_host.Host` and `lab_site.Site`. The installed package has one,
`namespace_site`; vagrant/vm_lab in the source tree has those with virtual machines.
"""
