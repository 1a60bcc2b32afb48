"""Several instances on one host, by the command line: they do not meet, and what `down` promises holds whatever
happened to them before.  One namespace; the firewall backends are the real ones."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rsock_nf.config.values import format_secret
from rsock_nf.lab.netns import Namespace
from rsock_nf.ops.instances.run_directory import RUN_DIR_VARIABLE
from tests.evidence import watched

SECRET = format_secret(bytes(range(32)))
PORTS = {"one": "10001-10003", "two": "10011-10013", "three": "10021-10023"}


class Host:
    """A namespace with a device ``v0``, and configuration files of servers in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.run_dir = directory / "run"
        self.namespace = Namespace(f"rsnf-inst-{os.getpid()}")
        try:
            self.namespace.ip("link add v0 type veth peer name v1", "link set v0 up", "link set v1 up")
            self.namespace.ip("addr add 192.0.2.1/24 dev v0", "addr add 2001:db8::1/64 dev v0 nodad")
            self.before = self.state()
        except BaseException:
            self.namespace.close()
            raise

    def write(self, stem: str, **keys: Any) -> Path:
        path = self.directory / f"{stem}.json"
        base = {"role": "server", "target": "127.0.0.1:9", "secret": SECRET, "device": "v0", "cipher": "aes-256-gcm"}
        path.write_text(json.dumps({**base, "ports": PORTS.get(stem, "20001-20003"), **keys}))
        path.chmod(0o600)
        return path

    def run(self, *words: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        argv = [*prefix, sys.executable, "-m", "rsock_nf", *words]
        environment = {**os.environ, RUN_DIR_VARIABLE: str(self.run_dir)}
        return self.namespace.run(argv, check=False, timeout=60, env=environment)

    def up(self, path: Path) -> None:
        result = self.run("up", "--config", str(path))
        assert result.returncode == 0, result.stderr

    def status(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.run("status", "--json").stdout)
        return found

    def pid(self, name: str) -> int:
        return int(json.loads((self.run_dir / name / "state.json").read_text())["pid"])

    def kill(self, name: str) -> None:
        process = os.pidfd_open(self.pid(name))
        signal.pidfd_send_signal(process, signal.SIGKILL)
        assert select.select([process], [], [], 10)[0], "the process did not end"
        os.close(process)

    def state(self) -> dict[str, Any]:
        """Everything that an instance may leave behind."""
        return {
            "nftables": self.namespace.run(["nft", "list", "ruleset"]).stdout,
            "iptables": [
                self.namespace.run([f"{tool}-legacy", "-t", "raw", "-S"]).stdout for tool in ("iptables", "ip6tables")
            ],
            "sockets": self.namespace.run(["ss", "-H", "-a", "-n", "-A", "tcp,udp,packet"]).stdout,
            "processes": self.namespace.pids(),
            "files": [str(path) for path in self.run_dir.rglob("*") if path.is_file() and path.name != "log"],
        }


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    try:
        with watched(None, tmp_path):
            yield made
    finally:
        made.namespace.close()


def test_three_instances_with_two_backends_live_side_by_side(host: Host) -> None:
    for name in PORTS:
        host.up(host.write(name, backend="iptables" if name == "three" else "nftables"))
    assert [(found["name"], found["firewall"]["backend"]) for found in host.status()] == [
        ("one", "nftables"),
        ("three", "iptables"),
        ("two", "nftables"),
    ]
    assert host.run("down", "--name", "one").stdout == "one: stopped\n"
    assert [found["name"] for found in host.status()] == ["three", "two"]
    tables = host.namespace.run(["nft", "list", "tables"]).stdout
    assert ("rsock_nf_one" in tables, "rsock_nf_two" in tables) == (False, True)
    assert host.run("down").stdout == "three: stopped\ntwo: stopped\n"
    assert host.state() == host.before


def test_bare_down_after_every_instance_was_killed(host: Host) -> None:
    for name in PORTS:
        host.up(host.write(name, backend="iptables" if name == "three" else "nftables"))
        host.kill(name)
    assert "rsock_nf_one" in host.namespace.run(["nft", "list", "tables"]).stdout, "rules outlive a crash"
    result = host.run("down")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "one: was not running; removed the nftables rules and files that it left",
        "three: was not running; removed the iptables rules and files that it left",
        "two: was not running; removed the nftables rules and files that it left",
    ]
    assert host.state() == host.before
    assert host.run("down").stdout == "nothing was running\n"


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_rules_whose_files_are_gone_are_found_in_the_kernel(host: Host, backend: str) -> None:
    host.up(host.write("one", backend=backend))
    host.kill("one")
    shutil.rmtree(host.run_dir)
    assert host.run("down").stdout == "one: was not running; removed the rules that it left\n"
    assert host.state() == host.before


def test_files_whose_rules_are_gone_as_after_a_reboot(host: Host) -> None:
    host.up(host.write("one", backend="nftables"))
    host.kill("one")
    host.namespace.run(["nft", "flush", "ruleset"])
    assert "its rules still stand" in " ".join(host.run("status").stdout.split()), "it does not look: not everybody may"
    assert host.run("down", "--config", str(host.directory / "one.json")).stdout == (
        "one: was not running; removed the files that it left\n"
    )
    assert host.state() == host.before


def test_a_second_up_is_told_apart_from_a_change_and_from_a_namesake(host: Host) -> None:
    path = host.write("one")
    host.up(path)
    pid = host.pid("one")
    again = host.run("up", "-c", str(path))
    assert (again.returncode, again.stdout) == (0, "one: is already running with this configuration\n")
    changed = host.run("up", "-c", str(host.write("one", ports="10001-10004")))
    assert changed.returncode == 1
    assert changed.stderr == (
        f"rsock-nf: instance one is already running, with what {path} said before: run `rsock-nf down --name one` first\n"
    )
    other = host.write("other", name="one")
    namesake = host.run("up", "-c", str(other))
    assert namesake.returncode == 1
    assert namesake.stderr == f'rsock-nf: instance one is already running, from {path}: give {other} another "name"\n'
    assert host.pid("one") == pid


def test_ports_of_another_instance_are_taken_and_it_does_not_suffer(host: Host) -> None:
    host.up(host.write("one"))
    result = host.run("up", "-c", str(host.write("two", ports="10003-10005")))
    assert result.returncode == 1
    assert "10003" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert [found["name"] for found in host.status()] == ["one"]
    assert "rsock_nf_two" not in host.namespace.run(["nft", "list", "tables"]).stdout
    assert [path.name for path in (host.run_dir / "two").iterdir()] == ["log"]


@pytest.mark.parametrize(
    ("keys", "said"), [({"device": "nosuch0"}, "nosuch0"), ({"addresses": "198.51.100.9", "device": "v9"}, "v9")]
)
def test_a_device_that_does_not_exist_is_named_and_nothing_is_left(host: Host, keys: dict[str, Any], said: str) -> None:
    result = host.run("up", "-c", str(host.write("one", **keys)))
    assert result.returncode == 1
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert host.state() == host.before


def test_root_without_the_capabilities_is_told_before_anything_happens(host: Host) -> None:
    prefix = ("setpriv", "--bounding-set=-net_admin,-net_raw", "--inh-caps=-all")
    result = host.run("up", "-c", str(host.write("one")), prefix=prefix)
    assert result.returncode == 1
    assert result.stderr == (
        "rsock-nf: up needs CAP_NET_ADMIN and CAP_NET_RAW: this root has been stripped of them (container?); "
        '"type": "udp" runs without\n'
    )
    result = host.run("down", prefix=prefix)
    unseen = f"as far as {host.run_dir} tells; rules left over can be seen only with CAP_NET_ADMIN and CAP_NET_RAW"
    assert (result.returncode, result.stdout, result.stderr) == (0, f"nothing was running ({unseen})\n", "")
    assert host.state() == host.before


def test_without_the_capabilities_udp_instances_come_up_and_a_bare_down_ends_them_all(host: Host) -> None:
    prefix = ("setpriv", "--bounding-set=-net_admin,-net_raw", "--inh-caps=-all")
    for name in ("one", "two"):
        result = host.run("up", "-c", str(host.write(name, type="udp")), prefix=prefix)
        assert result.returncode == 0, result.stderr
    result = host.run("down", prefix=prefix)
    assert (result.returncode, result.stdout, result.stderr) == (0, "one: stopped\ntwo: stopped\n", "")
    assert host.state() == host.before


@pytest.mark.parametrize(
    ("keys", "kept"),
    [
        ({"device": None}, {"NET_ADMIN": 12, "NET_RAW": 13, "DAC_READ_SEARCH": 2, "SYS_PTRACE": 19}),
        ({}, {"NET_ADMIN": 12, "NET_RAW": 13}),
        ({"ports": "1001-1003"}, {"NET_ADMIN": 12, "NET_RAW": 13, "NET_BIND_SERVICE": 10}),
        ({"type": "udp"}, {"NET_ADMIN": 12, "NET_RAW": 13}),
    ],
)
def test_an_instance_gives_up_what_it_does_not_need(host: Host, keys: dict[str, Any], kept: dict[str, int]) -> None:
    path = host.write("one", **keys)
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if value}))
    host.up(path)
    pid = host.pid("one")
    wanted = sum(1 << number for number in kept.values())
    for thread in Path(f"/proc/{pid}/task").iterdir():
        status = dict(line.split(":\t", 1) for line in (thread / "status").read_text().splitlines() if ":\t" in line)
        sets = {name: int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")}
        assert sets == {"CapEff": wanted, "CapPrm": wanted, "CapBnd": wanted}, thread.name
        assert status["Seccomp"] == "2", thread.name
        assert (status["NoNewPrivs"], status["CapInh"], status["CapAmb"]) == ("1", "0" * 16, "0" * 16)
    assert "Max core file size        0                    0  " in Path(f"/proc/{pid}/limits").read_text()
    look = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-all", "readlink", f"/proc/{pid}/cwd"]
    assert subprocess.run(look, check=False, capture_output=True, timeout=20).returncode == 1, "it is not dumpable"
    log = (host.run_dir / "one/log").read_text()
    said = next(line for line in log.splitlines() if " privileges: " in line)
    assert said.endswith("; no core dumps, none gained by executing")
    assert set(re.findall(r"CAP_(\w+)", said)) == set(kept)
    host.run("down")
    assert host.state() == host.before


def test_another_users_instance_is_refused_in_one_line(host: Host) -> None:
    host.up(host.write("one"))
    os.chown(host.run_dir / "one", 65534, 65534)
    prefix = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")
    for command in ("status", "down"):
        result = host.run(command, prefix=prefix)
        said = f"rsock-nf: {host.run_dir / 'one'}: Permission denied (are you root? Otherwise name a directory of your own "
        assert result.returncode == 1
        assert result.stderr == f"{said}in {RUN_DIR_VARIABLE})\n"


def test_doctor_finds_this_host_fit_and_a_taken_port(host: Host) -> None:
    path = str(host.write("one"))
    fit = host.run("doctor", "-c", path)
    assert fit.returncode == 0, fit.stdout
    assert "ok    device: v0, MTU 1500" in fit.stdout.splitlines()
    taken = host.namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
    taken.bind(("192.0.2.1", 10002))
    taken.listen()
    unfit = host.run("doctor", "-c", path)
    assert unfit.returncode == 1
    assert (
        "FAIL  ports: port 10002 is in use; `ss -tanp sport = :10002` or `rsock-nf status` tells by whom: choose other"
        in unfit.stdout
    )
    assert host.state()["nftables"] == host.before["nftables"]


@pytest.mark.parametrize(("pump", "told", "why"), [("auto", "native", ""), ("python", "python", '"pump" is "python"')])
def test_status_doctor_and_log_tell_which_data_path_runs_and_why(host: Host, pump: str, told: str, why: str) -> None:
    path = host.write("one", pump=pump)
    line = f"{told}: {why}" if why else told
    assert f"ok    pump: {line}" in host.run("doctor", "-c", str(path)).stdout.splitlines()
    host.up(path)
    (found,) = host.status()
    assert (found["pump"], found["pump_reason"]) == (told, why)
    assert f"  pump      {line}" in host.run("status", "--flows").stdout.splitlines()
    assert f" pump: {line}\n" in (host.run_dir / "one" / "log").read_text()


def test_a_native_data_path_that_was_asked_for_and_is_not_there(host: Host) -> None:
    path = str(host.write("one", pump="native", rsock={"ports": "30001"}))
    why = "wire rsock has no native data path"
    found = host.run("up", "-c", path)
    assert found.returncode == 1
    told = [line for line in found.stderr.splitlines() if "warning" not in line]  # of the second wire
    assert told == [f'rsock-nf: pump: there is no native data path: {why}; "auto" takes Python\'s']
    checked = host.run("doctor", "-c", path)
    assert checked.returncode == 1
    assert f"FAIL  pump: python: {why}" in checked.stdout.splitlines()
    assert host.state() == host.before


def client_of(host: Host, server: object, **keys: object) -> str:
    path = host.directory / "client.json"
    base = {"role": "client", "server": server, "listen": "127.0.0.1:9", "secret": SECRET, "cipher": "aes-256-gcm"}
    path.write_text(json.dumps({**base, **keys}))
    path.chmod(0o600)
    return str(path)


@pytest.mark.parametrize(("server", "keys"), [("192.0.2.1", {}), (["192.0.2.9", "192.0.2.1"], {"device": "v0"})])
def test_doctor_tells_a_server_on_this_host(host: Host, server: object, keys: dict[str, str]) -> None:
    found = host.run("doctor", "-c", client_of(host, server, **keys))
    assert found.returncode == 1
    assert "FAIL  server: 192.0.2.1 is an address of this host: client and server need two hosts" in found.stdout


def test_a_server_address_without_a_route_before_one_with(host: Host) -> None:
    """``doctor`` speaks of the device that ``up`` takes; the rules are about every device."""
    path = client_of(host, ["203.0.113.5", "192.0.2.9"])
    found = host.run("doctor", "--local", "-c", path)
    assert (found.returncode, "ok    device: v0, MTU 1500" in found.stdout) == (0, True), found.stdout
    rules = host.run("rules", "-c", path)
    assert (rules.returncode, rules.stderr) == (0, "")
    assert "hook prerouting" in rules.stdout
    nowhere = host.run("doctor", "-c", client_of(host, ["203.0.113.5", "203.0.113.6"]))
    assert nowhere.returncode == 1
    assert "FAIL  device: no route to 203.0.113.5" in nowhere.stdout


def test_doctor_goes_on_where_the_run_directory_is_not_to_be_trusted(host: Host) -> None:
    host.run_dir.mkdir(exist_ok=True)
    os.chown(host.run_dir, 65534, 65534)
    said = host.run("doctor", "-c", str(host.write("one"))).stdout
    os.chown(host.run_dir, 0, 0)
    assert "ok    device: v0, MTU 1500" in said
    assert f"warn  leftovers: {host.run_dir}: belongs to user nobody (mode 0755): run the command as" in said


def test_doctor_names_the_instance_that_holds_the_ports(host: Host) -> None:
    path = host.write("one")
    host.up(path)
    own = host.run("doctor", "-c", str(path))
    assert "ok    ports: 10001-10003: held by this instance, which is running" in own.stdout
    other = host.run("doctor", "-c", str(host.write("two", ports="10003-10005")))
    assert other.returncode == 1
    assert (
        'FAIL  ports: instance one holds 10001-10003: choose other "ports", or rsock-nf down --name one' in other.stdout
    )


def test_what_died_in_another_namespace_is_left_to_that_namespace(host: Host) -> None:
    """Files without their rules would look as if all were well, while a host stays deaf on these ports."""
    path = host.write("one")
    host.up(path)
    host.kill("one")
    environment = {**os.environ, RUN_DIR_VARIABLE: str(host.run_dir)}

    def from_outside(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "rsock_nf", *words]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=60)

    remedy = f"ip netns exec {host.namespace.name} rsock-nf down --name one"
    for words in (["down", "--name", "one"], ["up", "--config", str(path)]):
        refused = from_outside(*words)
        assert (refused.returncode, refused.stderr.splitlines()[-1]) == (
            1,
            f"rsock-nf: instance one died in another network namespace, where its rules still stand: run `{remedy}`",
        )
    (crashed,) = json.loads(from_outside("status", "--json").stdout)
    assert crashed["state"] == "crashed"
    assert crashed["reason"].endswith(f"its rules still stand: {remedy}")
    assert "rsock_nf_one" in host.state()["nftables"]
    assert host.run("down", "--name", "one").returncode == 0
    assert host.state() == host.before


def test_down_reaches_a_living_instance_from_any_namespace(host: Host) -> None:
    """It takes its own rules down, where they are."""
    host.up(host.write("one"))
    environment = {**os.environ, RUN_DIR_VARIABLE: str(host.run_dir)}
    argv = [sys.executable, "-m", "rsock_nf", "down", "--name", "one"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "one: stopped\n")
    assert host.state() == host.before


def test_an_instance_whose_directory_was_deleted_is_found_and_stopped(host: Host) -> None:
    path = host.write("one")
    host.up(path)
    pid = host.pid("one")
    shutil.rmtree(host.run_dir)
    second = host.run("up", "-c", str(path))
    assert second.returncode == 1
    assert second.stderr.splitlines()[-1] == (
        f"rsock-nf: instance one still runs, as process {pid}, though {host.run_dir / 'one'} was deleted: "
        "run `rsock-nf down --name one` first"
    )
    assert f"WARN  leftovers: one lost: process {pid} runs" in host.run("doctor").stdout.replace("warn", "WARN")
    assert host.run("down").stdout == "one: stopped\n"
    assert host.state() == host.before
