"""The real servers: vsftpd, nginx, dnsmasq, sshd and in.tftpd, each configured for this lab alone."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from ftfw.lab import plan
from ftfw.lab.host import Host, LabError, running

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
        files=plan.FILES,
    )
    return ["vsftpd", await host.write(name, content)]


async def _nginx(host: Host) -> list[str]:
    content = NGINX.format(workdir=host.workdir, address=plan.SERVER4, files=plan.FILES)
    return ["nginx", "-e", "stderr", "-c", await host.write("nginx.conf", content)]


async def _sshd(host: Host, client: Host) -> list[str]:
    await host.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "ssh-host-key")
    await client.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", plan.SSH_KEY_FILE)
    await host.write(plan.AUTHORIZED_KEYS_FILE, await client.read(f"{plan.SSH_KEY_FILE}.pub"))
    await host.run("mkdir", "-p", "/run/sshd")  # where Debian's sshd insists on its empty directory
    content = SSHD.format(workdir=host.workdir, address=plan.SERVER4, authorized_keys=plan.AUTHORIZED_KEYS_FILE)
    return ["/usr/sbin/sshd", "-D", "-e", "-f", await host.write("sshd.conf", content)]


def _dnsmasq() -> list[str]:
    return [
        *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root"),
        *("--no-resolv", "--no-hosts", "--bind-interfaces", f"--listen-address={plan.SERVER4}"),
        f"--address=/{plan.DNS_NAME}/{plan.DNS_ANSWER}",
    ]


def _tftpd(host: Host) -> list[str]:
    options = ("--foreground", "--ipv4", "--user", "nobody", "--address", f"{plan.SERVER4}:{plan.TFTP_PORT}")
    return ["in.tftpd", *options, "--secure", f"{host.workdir}/{plan.FILES}"]


@asynccontextmanager
async def real_servers(hosts: Mapping[str, Host], patience: float = 1.0) -> AsyncIterator[None]:
    """Run them all; they listen when this yields. The files they offer are there already.

    `patience`: how many times longer than in namespaces that may take.
    """
    client, server = hosts[plan.CLIENT], hosts[plan.SERVER]
    for host in (client, server):
        await host.run("mkdir", "empty", "nginx")
    commands = [
        (server, await _vsftpd(server, plan.SERVER4)),
        (server, await _vsftpd(server, plan.SERVER6)),
        (server, await _nginx(server)),
        (server, await _sshd(server, client)),
        (server, _dnsmasq()),
        (server, _tftpd(server)),
        (client, await _vsftpd(client, plan.PUBLISHED4)),
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
