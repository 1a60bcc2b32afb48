"""The command line as a user meets it: exit statuses, single lines, and how fast it is there."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rsock_firewall import FirewallError, Policy
from rsock_nf import __version__, cli
from rsock_nf.commands import genkey
from rsock_nf.config.values import format_secret, parse_secret
from rsock_nf.errors import TunnelError
from rsock_nf.ops import launch, privileges
from rsock_nf.ops.doctor import host as doctor
from rsock_nf.ops.instances import instance, namespaces
from rsock_nf.ops.instances.run_directory import RUN_DIR_VARIABLE, run_dir

ROOT = Path(__file__).parents[2]
SECRET = format_secret(bytes(range(32)))


@pytest.fixture(autouse=True)
def own_run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_DIR_VARIABLE, str(tmp_path / "run"))


@pytest.fixture
def server_file(tmp_path: Path) -> Path:
    path = tmp_path / "edge.json"
    keys = {"role": "server", "target": "127.0.0.1:9", "secret": SECRET, "cipher": "aes-256-gcm", "device": "lo"}
    path.write_text(json.dumps({**keys, "addresses": "192.0.2.1", "backend": "manual"}))
    path.chmod(0o600)
    return path


def test_help_lists_the_commands_in_groups_within_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    listed = [line.split()[0] for line in lines if re.match("  [a-z]", line)]
    _, parsers = cli._parser([])
    assert listed == list(parsers), "every command, once"
    assert listed[0] == "up"
    assert listed[-2:] == ["server", "client"], "those of the original come last"
    assert "compatibility" in lines[lines.index(next(line for line in lines if line.startswith("  server"))) - 1]


@pytest.mark.parametrize("command", list(cli._parser([])[1]))
def test_every_command_has_a_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    assert f"usage: rsock-nf {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "rsock-nf: the following arguments are required: COMMAND; see `rsock-nf --help`"),
        (["stauts"], "rsock-nf: there is no command 'stauts' (did you mean 'status'?); `rsock-nf --help` lists them"),
        (["help", "xyz"], "rsock-nf: there is no command 'xyz'; `rsock-nf --help` lists them"),
        (["genkey", "--now"], "rsock-nf genkey: unrecognized arguments: --now; see `rsock-nf genkey --help`"),
        (["up", "x", "--fooground"], "rsock-nf up: unrecognized arguments: --fooground (did you mean '--foreground'?); see `rsock-nf up --help`"),
        (["up", "-c", "x", "--timeout", "0"], "rsock-nf up: argument --timeout: '0' is not a number of seconds (0-3600); see `rsock-nf up --help`"),
        (["demo", "--datagrams", "-3"], "rsock-nf demo: error: argument --datagrams: '-3' is not a number of datagrams (at least 1)"),
        (["capture", "--count", "0"], "rsock-nf capture: argument --count: '0' is not a number (at least 1); see `rsock-nf capture --help`"),
        (["capture", "--seconds", "nan"], "rsock-nf capture: argument --seconds: 'nan' is not a number of seconds; see `rsock-nf capture --help`"),
        (["down", "-c", "x", "-n", "y"], "rsock-nf down: argument -n/--name: not allowed with argument -c/--config; see `rsock-nf down --help`"),
        (["down", "-c", "x", "y"], "rsock-nf down: argument FILE|NAME: not allowed with argument -c/--config; see `rsock-nf down --help`"),
    ],
)  # fmt: skip
def test_wrong_arguments(capsys: pytest.CaptureFixture[str], words: list[str], line: str) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == line
    assert len(lines) == 1 or words[0] == "demo", "the demonstration has a parser of its own"


@pytest.mark.parametrize("words", [["--version"], ["-V"], ["version"]])
def test_version_in_every_spelling(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"rsock-nf {__version__}\n"


@pytest.mark.parametrize(("words", "usage"), [(["help"], "[-h] [-V] COMMAND"), (["help", "up"], "up [-h]")])
def test_help_is_a_command_too(capsys: pytest.CaptureFixture[str], words: list[str], usage: str) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: rsock-nf {usage}")


@pytest.mark.parametrize("command", ["up", "check", "rules"])
def test_a_bad_configuration_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    path = tmp_path / "edge.json"
    path.write_text('{"role": "server", "prots": "1"}')
    assert cli.main([command, "--config", str(path)]) == 2
    assert capsys.readouterr().err == f'rsock-nf: {path}: prots: unknown key (did you mean "ports"?)\n'


def test_check(capsys: pytest.CaptureFixture[str], server_file: Path) -> None:
    assert cli.main(["check", "-c", str(server_file)]) == 0
    assert capsys.readouterr() == (f"{server_file}: valid; instance edge\n", "")
    server_file.chmod(0o644)
    assert cli.main(["check", "-c", str(server_file)]) == 0
    assert capsys.readouterr().err == (
        f"rsock-nf: warning: {server_file}: secret: everyone on this host can read it: chmod o-r {server_file}\n"
    )


def test_rules_of_a_server_touch_nothing_and_need_no_route(
    capsys: pytest.CaptureFixture[str], server_file: Path
) -> None:
    assert cli.main(["rules", "-c", str(server_file)]) == 0
    text = capsys.readouterr().out
    assert "table inet rsock_nf_edge" in text
    assert "10001-10010" in text
    assert "192.0.2.1" in text


def test_rules_need_no_privilege(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, server_file: Path
) -> None:
    keys = json.loads(server_file.read_text())
    monkeypatch.setattr("rsock_firewall.nftables.backend.Nftables.probe", refuse)
    monkeypatch.setattr("rsock_firewall.iptables.backend.Iptables.probe", refuse)
    for backend, expected in (("auto", "table inet"), ("nftables", "table inet"), ("iptables", "*raw")):
        server_file.write_text(json.dumps({**keys, "backend": backend}))
        monkeypatch.setattr(privileges, "missing", lambda: ["CAP_NET_ADMIN"])
        assert cli.main(["rules", "-c", str(server_file)]) == 0
        assert expected in capsys.readouterr().out
        monkeypatch.setattr(privileges, "missing", list)
        assert cli.main(["rules", "-c", str(server_file)]) == 1
        assert "not permitted" in capsys.readouterr().err, "who has the privilege is told what is wrong"


def refuse(_: object) -> None:
    raise FirewallError("not permitted")


@pytest.mark.parametrize(
    ("roles", "words", "status", "out", "err"),
    [
        ({"a": True, "b": False}, [], 0, "a: renews its flows\n", ""),
        ({"b": False}, [], 1, "", "rsock-nf: no client is running\n"),
        ({"b": False}, ["-n", "b"], 1, "", "rsock-nf: instance b is a server: it does not dial\n"),
    ],
)
def test_reconnect_is_about_clients(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    roles: dict[str, bool],
    words: list[str],
    status: int,
    out: str,
    err: str,
) -> None:
    monkeypatch.setattr("rsock_nf.ops.instances.running.instances", lambda: [instance.Instance(name) for name in roles])
    monkeypatch.setattr(instance.Instance, "is_running", lambda _: True)
    monkeypatch.setattr("rsock_nf.ops.control_socket.ask.ask", lambda asked, _: {"dials": roles[asked.name]})
    assert cli.main(["reconnect", *words]) == status
    assert capsys.readouterr() == (out, err)


def test_genkey_makes_another_key_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["genkey"]) == cli.main(["genkey"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert parse_secret(first) != parse_secret(second)


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "rsock-nf"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["status"], "no instance is running"),
        (["status", "-n", "edge"], "instance edge is not running"),
        (["reconnect"], "no instance is running"),
        (["status", "-n", "../etc"], "--name: \"../etc\" cannot name an instance: 1 to 64 letters, digits, '_', '-' or '.' are wanted"),
    ],
)  # fmt: skip
def test_commands_that_find_no_instance(capsys: pytest.CaptureFixture[str], words: list[str], line: str) -> None:
    assert cli.main(words) == 1
    assert capsys.readouterr() == ("", f"rsock-nf: {line}\n")


def leave(**record: object) -> instance.Instance:
    """What an instance left whose process is gone."""
    dead = instance.Instance("edge")
    dead.directory.mkdir(parents=True)
    written = {"pid": 4711, "started": "1", "config": "/x", "digest": "y", "netns": namespaces.current(), **record}
    dead.state_path.write_text(json.dumps(written))
    return dead


@pytest.mark.parametrize("words", [["status"], ["status", "--name", "edge"]])
@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({}, "crashed: process 4711 is gone; its rules still stand: rsock-nf down --name edge"),
        ({"netns": 1}, "crashed: process 4711 is gone, and its network namespace with its rules too: rsock-nf down --name edge"),
        ({"pid": "4711"}, "crashed: STATE does not tell when or where; its rules may still stand: rsock-nf down --name edge"),
        ({"ended": "device eth0 is gone"}, "failed: device eth0 is gone (log: LOG; rsock-nf down --name edge forgets it)"),
    ],
)  # fmt: skip
def test_status_lists_what_ended_without_down(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    record: dict[str, object],
    said: str,
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    dead = leave(**record)
    line = said.replace("STATE", str(dead.state_path)).replace("LOG", str(dead.log_path))
    assert cli.main(words) == 1
    assert capsys.readouterr() == (f"edge: {line}\n", "")
    state, _, reason = line.partition(": ")
    assert cli.main([*words, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    (one,) = [found] if "--name" in words else found
    assert (one["name"], one["state"], one["reason"]) == ("edge", state, reason)


def test_status_json_with_nothing_running_is_json_of_the_same_shape(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == []
    for words in (["--name", "edge"], ["edge"]):
        assert cli.main(["status", "--json", *words]) == 1
        found = json.loads(capsys.readouterr().out)
        assert found == {"name": "edge", "state": "down", "reason": "instance edge is not running"}


def test_down_of_what_died_in_another_network_namespace_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rules are there, out of reach: to remove the files would hide them."""
    dead = leave(netns=99)
    monkeypatch.setattr(namespaces, "way_into", lambda inode: f"ip netns exec blue{inode}")
    monkeypatch.setattr(privileges, "missing", list)
    for words in (["down"], ["down", "--name", "edge"]):
        monkeypatch.setattr("rsock_nf.ops.instances.leftovers.left_on_this_host", list)
        assert cli.main(words) == 1
        assert capsys.readouterr().err == (
            "rsock-nf: instance edge died in another network namespace, where its rules still stand: "
            "run `ip netns exec blue99 rsock-nf down --name edge`\n"
        )
        assert dead.state_path.exists()
    assert cli.main(["status"]) == 1
    assert " ".join(capsys.readouterr().out.split()) == (
        "edge: crashed: process 4711 is gone; its rules still stand: ip netns exec blue99 rsock-nf down --name edge"
    )


def test_a_namespace_is_entered_by_a_process_that_lives_there() -> None:
    inode = namespaces.current()
    assert inode is not None
    assert (namespaces.way_into(inode) or "").startswith(("nsenter --net --target ", "ip netns exec "))
    assert namespaces.way_into(1) is None


@pytest.mark.parametrize("alike", [True, False])
def test_another_up_at_the_same_moment_is_as_good_as_one_before(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, server_file: Path, *, alike: bool
) -> None:
    def too_late(*_: object, **__: object) -> None:
        raise TunnelError("instance edge is already running")

    looks = iter([False, alike])
    monkeypatch.setattr(privileges, "missing", list)
    monkeypatch.setattr(launch, "running_alike", lambda _: next(looks))
    monkeypatch.setattr(launch, "start", too_late)
    assert cli.main(["up", "--config", str(server_file)]) == (0 if alike else 1)
    told = capsys.readouterr()
    if alike:
        assert told.out == "edge: is already running with this configuration\n"
    else:
        assert told.err.endswith("rsock-nf: instance edge is already running\n")


def test_without_privileges_nothing_is_tried(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, server_file: Path
) -> None:
    monkeypatch.setattr(privileges, "missing", lambda: ["CAP_NET_ADMIN", "CAP_NET_RAW"])
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cli.main(["up", "-c", str(server_file)]) == 1
    line = 'rsock-nf: up needs CAP_NET_RAW: run it as root; "type": "udp" runs without\n'
    assert capsys.readouterr().err == line, "manual rules need no other"
    server_file.write_text(server_file.read_text().replace('"manual"', '"auto"'))
    assert cli.main(["up", "-c", str(server_file)]) == 1
    assert capsys.readouterr().err == line.replace("CAP_NET_RAW", "CAP_NET_ADMIN and CAP_NET_RAW")
    assert not run_dir().exists()


def test_an_unexpected_error_is_one_line_unless_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> int:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(genkey, "run", fail)
    assert cli.main(["genkey"]) == 1
    assert capsys.readouterr().err == "rsock-nf: unexpected RuntimeError: two lines (RSOCK_NF_DEBUG=1 shows where)\n"
    monkeypatch.setenv("RSOCK_NF_DEBUG", "1")
    with pytest.raises(RuntimeError):
        cli.main(["genkey"])


def test_an_interrupt_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(genkey, "run", interrupt)
    assert cli.main(["genkey"]) == 130


def test_a_reader_that_has_enough_is_no_traceback() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as nobody:
        result = subprocess.run(
            [sys.executable, "-m", "rsock_nf", "schema"],
            cwd=ROOT, stdout=nobody, stderr=subprocess.PIPE, check=False, timeout=60,
        )  # fmt: skip
    assert (result.returncode, result.stderr) == (1, b"")


@pytest.mark.parametrize("words", [["--help"], ["status"], ["genkey"]])
def test_quick_commands_import_nothing_heavy(words: list[str]) -> None:
    """Counted, not timed: a busy machine must not fail a test."""
    code = (
        "import sys\nfrom rsock_nf.cli import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "heavy = {'pydantic', 'pyroute2', 'iptc', 'cryptography', 'asyncio', 'rsock_nf.runtime'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, check=False, timeout=60
    )
    assert result.returncode == 0, result.stderr


def test_a_bare_checkout_runs_without_installation(tmp_path: Path) -> None:
    """As ``python -m`` in the checkout, and as the background process starts: by path, from another directory."""
    checkout = tmp_path / "checkout"
    (checkout / "firewall").mkdir(parents=True)
    (checkout / "rsock_nf").symlink_to(ROOT / "rsock_nf")
    (checkout / "firewall" / "rsock_firewall").symlink_to(ROOT / "firewall" / "rsock_firewall")
    code = (
        "import runpy, sys\n"
        f"sys.path[:] = [path for path in sys.path if not path.startswith({str(ROOT)!r}) or '.venv' in path]\n"
        f"sys.meta_path[:] = [found for found in sys.meta_path if 'editable' not in repr(found)]\n"
        "sys.argv = ['rsock-nf', '--version']\n"
        f"runpy.run_path({str(ROOT / 'rsock_nf' / '__main__.py')!r}, run_name='__main__')"
    )
    by_path = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert (by_path.returncode, by_path.stdout) == (0, f"rsock-nf {__version__}\n"), by_path.stderr
    by_module = subprocess.run(
        [sys.executable, "-m", "rsock_nf", "--version"],
        cwd=checkout, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (by_module.returncode, by_module.stdout) == (0, f"rsock-nf {__version__}\n"), by_module.stderr


def test_the_answer_to_down_when_nothing_ever_ran_is_0(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsock_nf.ops.instances.leftovers.left_on_this_host", list)
    for _ in range(2):
        assert cli.main(["down"]) == 0
        assert cli.main(["down", "--name", "edge"]) == 0
    assert capsys.readouterr().out == "nothing was running\nedge: was not running\n" * 2


def test_down_of_everything_removes_what_an_instance_could_not_that_ended_in_order_as_another_user(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsock_nf.ops.instances.leftovers.left_on_this_host", list)
    left = run_dir() / "edge"
    left.mkdir(mode=0o700, parents=True)
    (left / "state.json").touch(0o600)
    for name in ("control", "log"):
        (left / name).touch(0o600)
    assert cli.main(["down"]) == 0
    assert capsys.readouterr().out == "nothing was running\n"
    assert [path.name for path in left.iterdir()] == ["log"]


def test_down_without_privileges_when_nothing_runs_says_so_and_what_it_cannot_see(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(privileges, "missing", lambda: ["CAP_NET_ADMIN", "CAP_NET_RAW"])
    unseen = f"as far as {run_dir()} tells; rules left over can be seen only with CAP_NET_ADMIN and CAP_NET_RAW"
    for words, said in ((["down"], "nothing was running"), (["down", "--name", "edge"], "edge: was not running")):
        assert cli.main(words) == 0
        assert capsys.readouterr() == (f"{said} ({unseen})\n", "")


def test_down_without_privileges_of_what_another_user_left_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = leave()
    monkeypatch.setattr(privileges, "missing", lambda: ["CAP_NET_ADMIN", "CAP_NET_RAW"])
    monkeypatch.setattr(os, "geteuid", lambda: dead.directory.stat().st_uid + 1)
    for words in (["down"], ["down", "--name", "edge"]):
        assert cli.main(words) == 1
        assert capsys.readouterr() == ("", "rsock-nf: down needs CAP_NET_ADMIN and CAP_NET_RAW: run it as root\n")
    assert dead.state_path.exists()


def test_the_doctor_of_who_has_no_privileges_says_what_goes_without(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(privileges, "missing", lambda: ["CAP_NET_ADMIN", "CAP_NET_RAW"])
    cli.main(["doctor"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "privileges:" in line]
    assert line.endswith('; "type": "udp" runs without, and without packet socket and rules')


def test_the_doctor_tells_what_comes_before_the_rules(
    server_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def obstacles(policy: Policy) -> list[str]:
        return [f"a rule comes before those on {policy.device} for {policy.local_addresses[0]}"]

    monkeypatch.setattr(doctor, "select", lambda _: SimpleNamespace(name="pf", obstacles=obstacles))
    cli.main(["doctor", "--config", str(server_file)])
    assert "firewall: a rule comes before those on lo for 192.0.2.1" in capsys.readouterr().out


def test_the_doctor_tells_how_this_python_gets_the_iptables_backend(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no rsock-nf on PyPI to ask for its extra."""
    monkeypatch.setattr(doctor, "select", lambda _: SimpleNamespace(name="nftables"))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    cli.main(["doctor"])
    assert "optional" not in capsys.readouterr().out, "nftables works: it makes no difference"
    cli.main(["doctor", "--verbose"])
    assert f"(optional: {sys.executable} -m pip install python-iptables)" in capsys.readouterr().out


def test_the_doctor_looks_at_the_host_though_a_name_cannot_be_looked_up(
    server_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_resolver(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", no_resolver)
    server_file.write_text(json.dumps({"role": "server", "target": "no-such-host.invalid:9", "secret": SECRET}))
    assert cli.main(["doctor", "--config", str(server_file)]) == 1
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith(f'FAIL  names: {server_file}: target: cannot resolve "no-such-host.invalid"')
    assert [line for line in others if line.startswith("ok    kernel: ")]


def test_the_doctor_tells_what_vpns_should_set(
    server_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsock_nf.sockets.carriers.route_mtu", lambda *_: 0)
    cli.main(["doctor", "--config", str(server_file)])
    said = "MTU: 1500 on the way out: datagrams of up to 1436 bytes are not cut: WireGuard: MTU = 1404; OpenVPN: mssfix 1436"
    assert said in capsys.readouterr().out
    monkeypatch.setattr("rsock_nf.sockets.carriers.route_mtu", lambda *_: 1492)
    cli.main(["doctor", "--config", str(server_file)])
    assert "MTU: 1492 on the way out: datagrams of up to 1428 bytes are not cut" in capsys.readouterr().out
