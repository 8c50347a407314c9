"""The failover lab: two firewalls, a client and a server, real traffic, and the active firewall cut off.

Walk it in this direction::

    cli → run → site (netns: hosts, cables) → servers, daemons ~ agent on each host → flows → judge → report

What differs between namespaces, virtual machines and Vagrant stands behind `host.Host` and `host.Site` alone.
"""
