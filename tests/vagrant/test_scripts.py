"""The two-machine test's own parts, without a machine: the Vagrantfile, the scripts' promises, the judge.

The scenario itself runs by ``make vagrant-test``, and in CI where an earlier run left a saved state (``.ci/run``).
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
VAGRANT = ROOT / "vagrant"


@pytest.fixture(scope="module")
def traffic() -> ModuleType:
    spec = importlib.util.spec_from_file_location("traffic", VAGRANT / "traffic.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A directory that comes first in PATH."""
    directory = tmp_path / "bin"
    directory.mkdir()
    return directory


def program(directory: Path, name: str, text: str) -> None:
    path = directory / name
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


def environment(programs: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", **more}


def shell(command: str) -> str:
    """Of the functions in common.sh."""
    text = f". {VAGRANT}/common.sh; {command}"
    return subprocess.run(["bash", "-euc", text], check=True, capture_output=True, text=True, timeout=30).stdout.strip()


# -- what is declared


def test_vagrant_accepts_the_vagrantfile(tmp_path: Path) -> None:
    env = {**os.environ, "VAGRANT_HOME": str(tmp_path / "home"), "VAGRANT_DOTFILE_PATH": str(tmp_path / "dot")}
    argv = ["vagrant", "validate", "--ignore-provider"]
    found = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "You assigned a static IP" not in found.stdout


def test_the_vagrantfile_and_the_scripts_mean_the_same_devices_and_requirements() -> None:
    text = (ROOT / "Vagrantfile").read_text()
    for role in ("client", "server"):
        macs = f'mac: "{shell(f"lab_mac {role}")}", second: "{shell(f"second_mac {role}")}"'
        assert f'"{role}" => {{ {macs}' in text
    # It reads pyproject.toml line by line, as JSON.
    lines = (ROOT / "pyproject.toml").read_text()
    for key in ("dependencies", "iptables"):
        (array,) = re.findall(rf"^{key} = (\[.*?\])", lines, re.MULTILINE)
        assert json.loads(array)


def test_each_package_that_the_image_has_is_installed_in_another_box_too() -> None:
    image = (VAGRANT / "build-box.sh").read_text()
    (packages,) = re.findall(r"^for package in (.*); do$", (VAGRANT / "provision.sh").read_text(), re.MULTILINE)
    for package in packages.split():
        assert re.search(rf"\s{package}\s", image), package
    assert {"wireguard-tools", "ppp", "pppoe"} <= set(packages.split())


# -- which way


def test_vagrant_test_says_what_to_install_where_there_is_nothing(tmp_path: Path) -> None:
    bare = tmp_path / "bin"
    bare.mkdir()
    for name in ("bash", "dirname", "basename", "mkdir", "env"):
        found = subprocess.run(["bash", "-c", f"command -v {name}"], check=True, capture_output=True, text=True)
        (bare / name).symlink_to(found.stdout.strip())
    env = {"PATH": str(bare), "HOME": str(tmp_path)}
    # The system's sbin is looked at too, so virsh and the like may be there: what decides is vagrant and QEMU.
    argv = [str(bare / "bash"), str(VAGRANT / "test.sh")]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "apt-get install" in done.stderr
    assert "qemu-system-x86" in done.stderr
    assert "vagrant-libvirt" in done.stderr


def test_the_accelerator_can_be_chosen_and_is_never_kvm_without_its_flags() -> None:
    assert shell("RSOCK_NF_DRIVER=kvm driver") == "kvm"
    flags = Path("/proc/cpuinfo").read_text()
    if not re.search(r"\b(vmx|svm)\b", flags):
        assert shell("driver") == "qemu"
    else:
        assert shell("driver") == ("kvm" if os.access("/dev/kvm", os.W_OK) else "qemu")


# -- nothing is left, whatever happens


@pytest.mark.root
def test_kill_9_of_the_runner_ends_every_process_that_it_started(tmp_path: Path, programs: Path) -> None:
    """With a QEMU that does nothing: what is tested are the namespaces."""
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "bookworm.qcow2").touch()
    (cache / "bookworm.id").write_text("none\n")
    (cache / "id_ed25519").touch()
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    program(programs, "qemu-img", "exit 0")
    # A machine says that it runs, and keeps the pipe open until its end.
    machine = f"[[ $1 == --version ]] && exit 0\nexec 3>{alive}\necho machine >&3\nexec sleep 100"
    program(programs, "qemu-system-x86_64", machine)
    program(programs, "ssh", "exit 255")
    env = environment(programs, RSOCK_NF_VM_CACHE=str(cache))
    wheel = tmp_path / "x.whl"
    wheel.touch()
    with os.fdopen(os.open(alive, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as machines:
        runner = subprocess.Popen(
            [str(VAGRANT / "run-two-vm.sh"), "--wheel", str(wheel)],
            env=env,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            assert select.select([machines], [], [], 60)[0], "no machine was started"
            assert machines.read(len("machine\n")) == b"machine\n"
        finally:
            os.kill(runner.pid, signal.SIGKILL)
            runner.wait()
        while select.select([machines], [], [], 30)[0]:
            if not machines.read(4096):
                return  # the last one has closed it
        pytest.fail("a machine outlives its runner")


# -- the scenario fails when it should


@pytest.mark.parametrize("answer", ["exit 255", "exit 0"], ids=["nobody answers", "everything answers nothing"])
def test_the_scenario_names_the_check_that_failed(tmp_path: Path, programs: Path, answer: str) -> None:
    program(programs, "ssh", f"cat >/dev/null; {answer}")
    config = tmp_path / "ssh_config"
    config.touch()
    wheel = tmp_path / "x.whl"
    wheel.touch()
    argv = [str(VAGRANT / "two-vm-test.sh"), "--ssh-config", str(config), "--wheel", str(wheel)]
    done = subprocess.run(
        argv,
        env=environment(programs),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert re.search(r"^FAILED: (machines|offloads): ", done.stdout, re.MULTILINE), done.stdout + done.stderr
    assert "all passed" not in done.stdout


def test_the_ledger_sees_loss_damage_and_duplicates(traffic: ModuleType) -> None:
    contents = list(traffic.datagrams("seed", 50))
    ledger = traffic.Ledger("seed", 50)
    for data in contents[:-1]:
        assert ledger.take(data)
    assert not ledger.take(b"\xff" + contents[-1])
    repeated = next(data for data in contents if len(data) > 16)
    assert not ledger.take(repeated)
    assert ledger.result() == {"arrived": 49, "lost": 1, "duplicates": 1, "corrupted": 1}


def test_an_exchange_is_not_charged_with_the_one_before(traffic: ModuleType) -> None:
    """Each has datagrams of one byte, and some of those are equal."""
    arrivals = traffic.Arrivals()
    for byte in range(256):
        arrivals.take(bytes([byte]))
    before = arrivals.report("before", 10)
    contents = list(traffic.datagrams("seed 4", 2000))
    assert any(len(data) == 1 for data in contents)
    for data in contents:
        arrivals.take(data)
    found = json.loads(arrivals.report("seed 4", 2000).removeprefix(traffic.REPORT))
    assert found == {"arrived": 2000, "lost": 0, "duplicates": 0, "corrupted": 0}
    assert arrivals.report("before", 10) == before


def test_the_datagrams_have_every_kind_of_size(traffic: ModuleType) -> None:
    sizes = [len(data) for data in traffic.datagrams("any", 2000)]
    assert len(sizes) == 2000
    assert min(sizes) >= 1
    assert max(sizes) == 1400
    assert any(len(set(sizes[i : i + 20])) == 1 for i in range(1980)), "no run that could leave as one packet"


@pytest.fixture
def harmful_target(traffic: ModuleType) -> Iterator[tuple[str, int]]:
    """Echoes, but turns over one bit of every tenth answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        arrivals = traffic.Arrivals()

        def serve() -> None:
            for turn in itertools.count():
                data, peer = sock.recvfrom(65536)
                if data == b"stop":
                    return
                if data.startswith(traffic.PUSH):
                    _, seed, count = data.rsplit(b" ", 2)
                    for content in traffic.datagrams(seed.decode(), int(count)):
                        sock.sendto(content, peer)
                elif data.startswith(traffic.REPORT):
                    _, seed, count = data.rsplit(b" ", 2)
                    sock.sendto(arrivals.report(seed.decode(), int(count)), peer)
                else:
                    arrivals.take(data)
                    sock.sendto(data if turn % 10 else bytes([data[0] ^ 1]) + data[1:], peer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield sock.getsockname()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stop:
            stop.sendto(b"stop", sock.getsockname())
        thread.join()


def test_an_exchange_with_damage_is_no_success(
    traffic: ModuleType, harmful_target: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "SILENCE", 0.3)
    found = traffic.exchange(harmful_target, 100, 40, 100)
    assert not found["ok"]
    assert found["echoed"]["corrupted"] > 0
    assert found["at_target"] == {"arrived": 100, "lost": 0, "duplicates": 0, "corrupted": 0}
    assert found["lost"] == found["echoed"]["lost"] > 0, "the scenario asks for the worst of the three"
