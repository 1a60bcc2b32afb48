"""The systemd unit, as ``install-service`` makes it for the program that is run."""

from __future__ import annotations

import configparser
import os
import pwd
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rsock_nf import cli
from rsock_nf.errors import InstanceError
from rsock_nf.ops.program import program
from rsock_nf.ops.service import install, unit

ROOT = Path(__file__).parents[2]


def service(text: str) -> dict[str, list[str]]:
    """Each setting with its values."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_the_program_is_this_one_and_the_rest_is_the_template() -> None:
    made = unit.unit(["/opt/v/bin/python", "-P", "/opt/a b/100%/__main__.py"], [Path("/opt/v")])
    (started,) = service(made)["ExecStart"]
    assert started == ('/opt/v/bin/python -P "/opt/a b/100%%/__main__.py" up --foreground --user rsock-nf %i')
    differ = set(made.splitlines()) ^ set(unit.template().splitlines())
    assert {line.partition("=")[0] for line in differ} == {"ExecStart", "ExecReload"}
    (reloaded,) = service(made)["ExecReload"]
    assert reloaded == '+/opt/v/bin/python -P "/opt/a b/100%%/__main__.py" reload %i'


def test_a_program_in_a_home_is_seen_and_nothing_else_there_is() -> None:
    needs = [
        Path(path) for path in ("/home/a/rsock-nf/.venv", "/home/a/rsock-nf", "/root/.pyenv/versions/3.13", "/usr")
    ]
    found = service(unit.unit(["/home/a/rsock-nf/.venv/bin/python"], needs))
    assert found["ProtectHome"] == ["tmpfs"]
    assert found["BindReadOnlyPaths"] == ["/home/a/rsock-nf", "/root/.pyenv/versions/3.13"]


def test_what_this_very_program_needs_is_found(tmp_path: Path) -> None:
    found = unit.needed()
    for wanted in (ROOT, Path(sys.executable), Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve()):
        assert any(wanted == path or path in wanted.parents for path in found), wanted
    assert all(path.is_absolute() and path.exists() for path in found)
    assert tmp_path not in found


def test_the_unit_gives_no_more_than_a_tunnel_needs() -> None:
    read = configparser.ConfigParser(interpolation=None, strict=False)
    read.optionxform = str  # type: ignore[assignment,method-assign]
    read.read_string(unit.template())
    found = read["Service"]
    kept = {"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE"}
    to_become = {"CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"}
    assert set(found["CapabilityBoundingSet"].split()) == kept | to_become
    assert f"--user {unit.USER} " in found["ExecStart"]
    assert found["ProtectSystem"] == "strict"
    assert found["NoNewPrivileges"] == found["MemoryDenyWriteExecute"] == found["ProtectHome"] == "yes"
    assert set(found["RestrictAddressFamilies"].split()) == {
        "AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET",
    }  # fmt: skip


def test_systemd_has_nothing_to_object_to(tmp_path: Path) -> None:
    (tmp_path / unit.NAME).write_text(unit.unit(program(), unit.needed()))
    instance = tmp_path / "rsock-nf@a-b.service"
    done = subprocess.run(["systemd-analyze", "verify", str(instance)], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if "rsock-nf@" in line] == []


def test_its_exposure_is_ok(tmp_path: Path) -> None:
    path = tmp_path / "rsock-nf@.service"
    path.write_text(unit.template())
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=27", str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "SYSTEMD_EMOJI": "0"}
    )
    assert done.returncode == 0, done.stdout[-200:]


# -- the command


def test_print_touches_nothing_and_needs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(install.UNITS.glob("rsock-nf*"))
    assert cli.main(["install-service", "--print"]) == 0
    assert capsys.readouterr().out == install.text()
    assert sorted(install.UNITS.glob("rsock-nf*")) == before


def test_without_systemd_or_root_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "_RUNNING", tmp_path / "none")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(InstanceError, match="not run by systemd"):
        install.install(print, print)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(InstanceError, match="as root"):
        install.install(print, print)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with systemd, in a directory; commands are written down."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("systemctl", "useradd"):
        script = programs / name
        script.write_text(
            f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/called\n[ "$1" != --version ] || echo "systemd 255 (x)"\n'
        )
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(install, "UNITS", tmp_path / "units")
    monkeypatch.setattr(install, "CONFIGURATIONS", tmp_path / "etc")
    monkeypatch.setattr(install, "LOGS", tmp_path / "log")
    monkeypatch.setattr(install, "_RUNNING", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "chown", lambda *_: None)
    me = pwd.getpwuid(os.getuid())
    monkeypatch.setattr(install, "_account", lambda _: me)
    return tmp_path


def test_it_writes_the_unit_and_the_directories_and_says_what_is_next(host: Path) -> None:
    said: list[str] = []
    for _ in range(2):
        said.clear()
        install.install(said.append, lambda _: None)
        assert (host / "units" / unit.NAME).read_text() == unit.unit(program(), unit.needed())
        assert (host / "etc").stat().st_mode & 0o777 == 0o750
        assert (host / "log").stat().st_mode & 0o777 == 0o750
        assert said[-1].startswith("next: systemctl enable --now rsock-nf@NAME")
    called = (host / "called").read_text().splitlines()
    assert called.count("systemctl daemon-reload") == 2
    assert not [line for line in called if line.startswith("useradd")], "the user is there"


def test_it_makes_the_user_where_there_is_none(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    me = pwd.getpwuid(os.getuid())
    monkeypatch.setattr(install, "_account", lambda _: me if (host / "called").exists() else None)
    said: list[str] = []
    install.install(said.append, lambda _: None)
    assert said[0] == "made user rsock-nf"
    assert (host / "called").read_text().splitlines()[0].startswith("useradd --system --user-group ")


def test_it_warns_of_a_program_that_the_service_cannot_read_or_somebody_else_can_change(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, open_ = host / "closed", host / "open"
    for path, mode in ((closed, 0o700), (open_, 0o755)):
        path.mkdir(mode=mode)
        os.lchown(path, 65534, -1)
    monkeypatch.setattr(unit, "needed", lambda: [closed, open_, Path("/usr")])
    warned: list[str] = []
    install.install(lambda _: None, warned.append)
    assert warned == [
        f"the service cannot read {closed}: it is another user's (remedy: chmod o+rX {closed}, or install elsewhere)",
        f"user nobody can change the program that root starts here: {open_} is theirs",
    ]


def test_of_the_debian_package_it_has_nothing_to_do(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "PACKAGED", host)
    monkeypatch.setattr(install, "program", lambda: unit.PACKAGED)
    (host / unit.NAME).touch()
    said: list[str] = []
    install.install(said.append, said.append)
    assert said[0].endswith("nothing is to be done")
    assert said[1].startswith("next: systemctl enable --now rsock-nf@NAME")
    assert not (host / "called").exists()
    assert shlex.join(unit.PACKAGED) in (ROOT / "release/deb").read_text()
