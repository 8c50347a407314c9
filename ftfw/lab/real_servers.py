"""Runs the servers that real clients use: vsftpd, nginx, dnsmasq, sshd and in.tftpd, configured for the lab."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from ftfw.lab import topology
from ftfw.lab.lab_host import Host, LabError, running

START_LIMIT_S = 10

VSFTPD = """\
listen={listen4}
listen_ipv6={listen6}
{listen_address}={address}
background=NO
anonymous_enable=YES
local_enable=NO
no_anon_password=NO
anon_root={workdir}/{files}
secure_chroot_dir={workdir}/empty
anon_max_rate=40000
trans_chunk_size=4096
accept_timeout=600
connect_timeout=600
data_connection_timeout=3600
idle_session_timeout=3600
max_per_ip=0
max_clients=0
seccomp_sandbox=NO
isolate=NO
isolate_network=NO
xferlog_enable=NO
"""

NGINX = """\
daemon off;
worker_processes 1;
pid {workdir}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {workdir}/nginx;
    proxy_temp_path {workdir}/nginx;
    fastcgi_temp_path {workdir}/nginx;
    uwsgi_temp_path {workdir}/nginx;
    scgi_temp_path {workdir}/nginx;
    server {{
        listen {address}:80;
        root {workdir}/{files};
        limit_rate 64k;
        output_buffers 1 16k;
    }}
}}
"""

SSHD = """\
ListenAddress {address}
HostKey {workdir}/ssh-host-key
AuthorizedKeysFile {workdir}/{authorized_keys}
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
"""


async def _vsftpd(host: Host, address: str) -> list[str]:
    six = ":" in address
    name = "vsftpd6.conf" if six else "vsftpd.conf"
    content = VSFTPD.format(
        listen4="NO" if six else "YES",
        listen6="YES" if six else "NO",
        listen_address="listen_address6" if six else "listen_address",
        address=address,
        workdir=host.workdir,
        files=topology.FILES,
    )
    return ["vsftpd", await host.write(name, content)]


async def _nginx(host: Host) -> list[str]:
    content = NGINX.format(workdir=host.workdir, address=topology.SERVER4, files=topology.FILES)
    return ["nginx", "-e", "stderr", "-c", await host.write("nginx.conf", content)]


async def _sshd(host: Host, client: Host) -> list[str]:
    await host.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "ssh-host-key")
    await client.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", topology.SSH_KEY_FILE)
    await host.write(topology.AUTHORIZED_KEYS_FILE, await client.read(f"{topology.SSH_KEY_FILE}.pub"))
    await host.run("mkdir", "-p", "/run/sshd")  # Debian's sshd needs this empty directory
    content = SSHD.format(workdir=host.workdir, address=topology.SERVER4, authorized_keys=topology.AUTHORIZED_KEYS_FILE)
    return ["/usr/sbin/sshd", "-D", "-e", "-f", await host.write("sshd.conf", content)]


def _dnsmasq() -> list[str]:
    return [
        *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root"),
        *("--no-resolv", "--no-hosts", "--bind-interfaces", f"--listen-address={topology.SERVER4}"),
        f"--address=/{topology.DNS_NAME}/{topology.DNS_ANSWER}",
    ]


def _tftpd(host: Host) -> list[str]:
    options = ("--foreground", "--ipv4", "--user", "nobody", "--address", f"{topology.SERVER4}:{topology.TFTP_PORT}")
    return ["in.tftpd", *options, "--secure", f"{host.workdir}/{topology.FILES}"]


@asynccontextmanager
async def real_servers(hosts: Mapping[str, Host], patience: float = 1.0) -> AsyncIterator[None]:
    """Run all servers while the context lasts; they listen when it begins. Agents have published the files before.

    `patience` is the factor by which the time limit is longer than in namespaces.
    Raises LabError if a server does not listen in time.
    """
    client, server = hosts[topology.CLIENT], hosts[topology.SERVER]
    for host in (client, server):
        await host.run("mkdir", "empty", "nginx")
    commands = [
        (server, await _vsftpd(server, topology.SERVER4)),
        (server, await _vsftpd(server, topology.SERVER6)),
        (server, await _nginx(server)),
        (server, await _sshd(server, client)),
        (server, _dnsmasq()),
        (server, _tftpd(server)),
        (client, await _vsftpd(client, topology.PUBLISHED4)),
    ]
    async with AsyncExitStack() as stack:
        for host, command in commands:
            await stack.enter_async_context(running(host, *command, log=LOG))
        await _listening(server, {"21", "22", "53", "69", "80"}, START_LIMIT_S * patience)
        await _listening(client, {"21"}, START_LIMIT_S * patience)
        yield


LOG = "servers.log"


async def _listening(host: Host, ports: set[str], limit_s: float) -> None:
    missing = ports
    with trio.move_on_after(limit_s):
        while missing:
            sockets = (await host.run("ss", "-Hltun")).splitlines()
            missing = ports - {line.split()[4].rpartition(":")[2] for line in sockets}
            await trio.sleep(0.05)
    if missing:
        log = (await host.read(LOG)).strip()[-2000:]
        raise LabError(f"nothing listens on port {', '.join(sorted(missing))} of {host.name}:\n{log}")
