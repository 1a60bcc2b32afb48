"""A host with more uses than the tunnel: the exit of a VPN, a web site on the same port."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from rsock_nf.lab.lab import DEVICE, ROUTER_OUTSIDE_IP, SERVER_IP
from rsock_nf.lab.netns import Namespace
from rsock_nf.lab.traffic import Application, EchoTarget
from rsock_nf.lab.tunnel import Role
from tests.netns.conftest import FLOWS, Site
from tests.netns.judges import forget_neighbours, wait_until

PORTS = "40000-40999"
"""Within net.ipv4.ip_local_port_range."""
MASQUERADE = f"""
table inet nat {{ chain post {{ type nat hook postrouting priority srcnat; oifname "{DEVICE}" masquerade; }}; }}
"""
BEHIND = {4: "10.77.9.2", 6: "fd77:9::2"}
GATEWAY = {4: "10.77.9.1", 6: "fd77:9::1"}


def forward(site: Site) -> None:
    for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        site.lab.server.sysctl(key, "1")


@contextmanager
def somebody_behind(site: Site) -> Iterator[Namespace]:
    """A user of the VPN whose exit is the server, and a web server outside: the router."""
    server = site.lab.server
    behind = Namespace(f"{site.lab.name}-behind")
    try:
        server.ip(f"link add vpn type veth peer name {DEVICE} netns {behind.name}", "link set vpn up")
        behind.ip(f"link set {DEVICE} up")
        for version, length in ((4, 24), (6, 64)):
            server.ip(f"addr add {GATEWAY[version]}/{length} dev vpn")
            behind.ip(f"addr add {BEHIND[version]}/{length} dev {DEVICE}", f"route add default via {GATEWAY[version]}")
        server.nft(MASQUERADE)
        site.lab.router.popen([sys.executable, "-m", "http.server", "8080", "--bind", "::"])
        wait_until(lambda: ":8080" in site.lab.router.run(["ss", "-Hltn"]).stdout, "the web server")
        yield behind
    finally:
        behind.close()


def fetched(behind: Namespace, port: int, version: int, *, patience: int = 10) -> str:
    """The status of a page outside, fetched from that source port; 000 = there was no answer."""
    url = f"http://[{ROUTER_OUTSIDE_IP[6]}]:8080/" if version == 6 else f"http://{ROUTER_OUTSIDE_IP[4]}:8080/"
    words = ["curl", "-s", "-m", str(patience), "-o", "/dev/null", "-w", "%{http_code}", "--local-port", str(port), url]
    return behind.run(words, check=False).stdout


def entries_of_ours(site: Site) -> list[str]:
    """What connection tracking on the server has of flows: they come to our ports."""
    tracked = site.lab.server.read("nf_conntrack").splitlines()
    return [line for line in tracked if f"src={ROUTER_OUTSIDE_IP[4]}" in line.partition("dport=")[0]]


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_the_exit_of_a_vpn(build: Callable[..., Site], backend: str) -> None:
    """Masquerading keeps source ports, ours too.  Nobody who uses them notices the tunnel, nor does the tunnel."""
    server = {"backend": backend, "ports": PORTS, "on_probe": "closed"}
    site = build(up=False, server=server, client={"ports": PORTS})
    forward(site)
    with somebody_behind(site) as behind, site.watch() as wires, site.tunnel:
        target, application = site.target(), site.application()
        for version, port in ((4, 40006), (6, 40123), (4, 40998), (6, 40999)):
            found = application.exchange(300)
            assert (found.lost, target.corrupted) == (0, 0)
            assert fetched(behind, port, version) == "200", port
        assert entries_of_ours(site) == []
        assert wires.resets() == 0
    assert "this host forwards" in site.tunnel.log("server")
    site.no_offence()


def test_a_host_that_begins_to_forward_while_the_tunnel_runs(build: Callable[..., Site]) -> None:
    site = build(up=False, server={"ports": PORTS}, client={"ports": PORTS})
    with somebody_behind(site) as behind, site.watch() as wires, site.tunnel:
        application = site.application()
        site.target()
        assert application.exchange(300).lost == 0
        forward(site)
        found = application.exchange_for(3)
        assert found.lost == 0
        wait_until(lambda: "forwards now" in site.tunnel.log("server"), "the rules to follow")
        assert fetched(behind, 40006, 4) == "200"
        assert application.exchange(300).lost == 0
        site.lab.server.sysctl("net.ipv4.ip_forward", "0")
        site.lab.server.sysctl("net.ipv6.conf.all.forwarding", "0")
        wait_until(lambda: "no longer forwards" in site.tunnel.log("server"), "the rules to follow")
        assert application.exchange(300).lost == 0
        assert wires.resets() == 0
    site.no_offence()


def test_up_log_and_doctor_warn_of_ports_that_connections_may_have(build: Callable[..., Site]) -> None:
    site = build(up=False, server={"ports": PORTS})
    config = str(site.tunnel.config("server"))
    for loud in (False, True):
        if loud:
            forward(site)
        warning = f"{PORTS} lie in net.ipv4.ip_local_port_range" + (", and this host forwards" if loud else ": a conn")
        try:
            said = site.tunnel.command("server", "up", "--config", config).stderr
            assert [line for line in said.splitlines() if warning in line and "warning: ports: " in line]
            assert warning in site.tunnel.log("server")
        finally:
            site.tunnel.down("server")
        found = site.tunnel.command("server", "doctor", "--config", config, check=False).stdout
        assert [line for line in found.splitlines() if line.startswith("warn  ports: ") and warning in line]
    site.lab.server.sysctl("net.ipv4.ip_local_reserved_ports", PORTS)
    assert "lie in" not in site.tunnel.command("server", "doctor", "--config", config, check=False).stdout


RAW_ONLY = ("setpriv", "--bounding-set", "-all,+net_raw", "--inh-caps", "-all,+net_raw")
"""As root of a default Docker container has it, as far as the network is concerned."""


def confined(site: Site, role: Role, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [*RAW_ONLY, sys.executable, "-m", "rsock_nf", *words, "--config", str(site.tunnel.config(role))]
    return site.host(role).run(argv, check=False, env=site.tunnel.environment(role))


@pytest.mark.parametrize("version", [4, 6])
def test_with_manual_rules_a_packet_socket_is_all_that_is_asked_for(build: Callable[..., Site], version: int) -> None:
    """The host's administrator installs what ``rules`` prints; the container has CAP_NET_RAW only."""
    manual = {"backend": "manual"}
    roles: tuple[Role, Role] = ("server", "client")
    client = {**manual, "client_ports": "20000-20099"}
    site = build(up=False, version=version, server=manual, client=client)
    for role in roles:
        site.host(role).nft(site.tunnel.command(role, "rules", "--config", str(site.tunnel.config(role))).stdout)
        forget_neighbours(site.host(role))
    with site.watch() as wires:
        try:
            for role in roles:
                said = confined(site, role, "up")
                assert said.returncode == 0, said.stderr
                (pid,) = site.tunnel.pids(role)
                assert "CapEff:\t0000000000002000" in Path(f"/proc/{pid}/status").read_text()
            site.carries()
            for role in roles:  # who is forgotten is asked for again
                forget_neighbours(site.host(role))
            site.carries()
        finally:
            for role in reversed(roles):
                assert confined(site, role, "down").returncode == 0
        assert wires.resets() == 0
    site.no_offence()


def test_who_lacks_one_capability_is_told_of_manual_rules(build: Callable[..., Site]) -> None:
    site = build(up=False)
    said = confined(site, "server", "up")
    assert said.returncode == 1
    assert (
        'up needs CAP_NET_ADMIN: this root has been stripped of them (container?); "backend": "manual"' in said.stderr
    )


WEB = {4: "10.77.2.80", 6: "fd77:2::80"}
"""Other addresses of the server's host."""


@contextmanager
def nginx(site: Site, directory: Path, *listen: str) -> Iterator[Callable[[], None]]:
    """A web server on the server's host; gives what restarts it.  ``AssertionError`` with its words if it ends."""
    config = directory / "nginx.conf"
    sockets = " ".join(f"listen {one};" for one in listen)
    config.write_text(
        f"daemon off; master_process off; pid {directory}/pid; error_log stderr;\n"
        f"events {{ }} http {{ access_log off; server {{ {sockets} return 200; }} }}\n"
    )
    server = site.lab.server
    running: list[subprocess.Popen[str]] = []

    def begin() -> None:
        web = server.popen(["nginx", "-c", str(config)], stderr=subprocess.PIPE, text=True)
        running.append(web)
        wait_until(lambda: '("nginx"' in server.run(["ss", "-Hltnp"]).stdout or web.poll() is not None, "nginx")
        if web.poll() is not None:
            raise AssertionError(web.communicate()[1])

    def end() -> None:
        if running:
            running[-1].terminate()
            running.pop().communicate()

    def restart() -> None:
        end()
        begin()

    begin()
    try:
        yield restart
    finally:
        end()


def page(site: Site, version: int) -> str:
    url = f"http://[{WEB[6]}]:443/" if version == 6 else f"http://{WEB[4]}:443/"
    return site.lab.client.run(["curl", "-s", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", url]).stdout


@pytest.mark.parametrize("first", ["nginx", "tunnel"])
@pytest.mark.parametrize("version", [4, 6])
def test_a_web_site_on_another_address_has_the_same_port(
    build: Callable[..., Site], tmp_path: Path, version: int, first: str
) -> None:
    server = {"ports": "443", "addresses": [SERVER_IP[version]]}
    site = build(up=False, version=version, server=server, client={"ports": "443"})
    site.lab.server.ip(f"addr add {WEB[4]}/24 dev {DEVICE}", f"addr add {WEB[6]}/64 dev {DEVICE} nodad")
    with ExitStack() as stack:
        if first == "tunnel":
            stack.enter_context(site.tunnel)
        restart = stack.enter_context(nginx(site, tmp_path, f"{WEB[4]}:443", f"[{WEB[6]}]:443"))
        if first == "nginx":
            stack.enter_context(site.tunnel)
        application = stack.enter_context(Application(site.lab))
        stack.enter_context(EchoTarget(site.lab))
        for _ in range(2):
            assert application.exchange(500).lost == 0
            assert [page(site, each) for each in (4, 6)] == ["200", "200"]
            restart()
        assert application.exchange(500).lost == 0
    assert site.lab.counters()["invalid"] == 0


def test_a_web_server_on_every_address_is_refused_with_the_remedy(build: Callable[..., Site], tmp_path: Path) -> None:
    site = build(up=False, server={"ports": "443", "addresses": [SERVER_IP[4]]}, client={"ports": "443"})
    with nginx(site, tmp_path, "443"):
        said = site.tunnel.command("server", "up", "--config", str(site.tunnel.config("server")), check=False)
        assert said.returncode != 0
        assert f"port 443 is in use on {SERVER_IP[4]}; `ss -tanp sport = :443`" in said.stderr
        assert "who listens on every address" in said.stderr
    with site.tunnel:
        with (
            pytest.raises(AssertionError, match=r"bind\(\) to 0.0.0.0:443 failed \(98: "),
            nginx(site, tmp_path, "443"),
        ):
            pass
        site.carries(300)


MANY = "20000-29999"


def test_ten_thousand_ports(build: Callable[..., Site]) -> None:
    """The server holds each of them; the client spreads its flows over them."""
    both = {"ports": MANY}
    site = build(server=both, client=both)
    site.carries(500)
    assert len(site.all_flows()) == FLOWS
    (pid,) = site.tunnel.pids("server")
    assert sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()) > 10_000
    site.no_offence()


def test_more_ports_than_descriptors_are_refused_with_the_remedy(build: Callable[..., Site]) -> None:
    site = build(up=False, server={"ports": MANY})
    argv = [
        "prlimit",
        "--nofile=1000:1000",
        "setpriv",
        "--bounding-set",
        "-sys_resource",
        "--inh-caps",
        "-sys_resource",
    ]
    argv += [sys.executable, "-m", "rsock_nf", "up", "--config", str(site.tunnel.config("server"))]
    said = site.lab.server.run(argv, check=False, env=site.tunnel.environment("server"))
    assert said.returncode == 1
    assert "cannot be held: too many open files, one for each port and address: raise `ulimit -Hn`" in said.stderr
    assert "drop" not in site.lab.server.run(["nft", "list", "ruleset"]).stdout


@pytest.mark.parametrize("own_address", [True, False])
@pytest.mark.parametrize("forwarding", [True, False])
def test_a_bridge_whose_packets_pass_iptables(
    build: Callable[..., Site],
    forwarding: bool,  # noqa: FBT001
    own_address: bool,  # noqa: FBT001
) -> None:
    """As on a host with Docker or Proxmox, whose uplink is a port of a bridge.

    ``own_address``: the bridge's link address is not that of its port, and it alone calls iptables."""
    site = build(up=False)
    server = site.lab.server
    server.ip(
        "link add br0 type bridge", "link set br0 up", f"link set {DEVICE} master br0", f"addr flush dev {DEVICE}"
    )
    server.ip(f"addr add {SERVER_IP[4]}/24 dev br0", f"route add default via {ROUTER_OUTSIDE_IP[4]}")
    if own_address:
        server.ip("link set br0 address 02:00:00:00:77:77")
    if own_address:
        server.ip("link set br0 type bridge nf_call_iptables 1")
    else:
        server.sysctl("net.bridge.bridge-nf-call-iptables", "1")
    if forwarding:
        forward(site)
    with site.watch() as wires, site.tunnel:
        site.carries(300)
        assert wires.resets() == 0
        status = site.tunnel.status("server")
        flows = status["sessions"][0]["flows"]
        assert sum(flow["replayed"] + flow["bad_frames"] + flow["out_of_window"] for flow in flows) == 0, "twice"
        packets = status["link"]["counters"]["received_packets"]
        assert packets <= status["firewall"]["dropped"], "each packet is taken once, and dropped once"
    site.no_offence()
