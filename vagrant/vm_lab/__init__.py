"""The failover lab with firewalls that boot: `./dev vm-lab` and `vagrant/failover`.

Adds places to the lab of `ftfw.lab`, which works in the source tree only: `machines_site` (virtual machines and a
container that boots) and `vagrant_site` (the four machines of `vagrant up`). Hosts are reached by ssh (`ssh_host`), and
systemd and keepalived run ftfw as on an installed firewall (`installed_daemons`).
"""
