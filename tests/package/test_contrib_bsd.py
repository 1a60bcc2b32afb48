"""The start scripts for BSD and macOS, as far as they can be run here: with a stand-in for the system's rc.subr."""

from __future__ import annotations

import argparse
import plistlib
import subprocess
from pathlib import Path

import pytest

from rsock_nf import cli
from rsock_nf.commands import up

CONTRIB = Path(__file__).parents[2] / "contrib"
RC_D = CONTRIB / "bsd" / "rc.d"
# What rc.subr(8) does with the names that a script sets, in one line each.
FREEBSD_SUBR = """
load_rc_config() { . "$RC_CONF"; }
run_rc_command() {
    for module in $required_modules; do echo "module $module" >>"$LOG"; done
    eval "command=\\$${1}_cmd"; eval "$command"
}
"""
OPENBSD_SUBR = """
rc_exec() { eval "$1"; }
rc_cmd() { eval "rc_$1"; }
"""
PROGRAM = """#!/bin/sh
echo "$*" >>"$LOG"
case "$*" in *bad*) exit 3;; esac
"""


class Rc:
    """One script, with a program that writes down how it was called."""

    def __init__(self, directory: Path, script: str, subr: str) -> None:
        self.log, self.conf = directory / "log", directory / "rc.conf"
        self.program = directory / "rsock-nf"
        self.program.write_text(PROGRAM)
        self.program.chmod(0o755)
        (directory / "rc.subr").write_text(subr)
        text = (RC_D / script).read_text()
        for path in ("/etc/rc.subr", "/etc/rc.d/rc.subr"):
            text = text.replace(f"\n. {path}\n", f"\n. {directory / 'rc.subr'}\n")
        self.script = directory / "script"
        self.script.write_text(text.replace('daemon="/usr/local/bin/rsock-nf"', f'daemon="{self.program}"'))

    def run(self, verb: str, conf: str = "") -> tuple[int, list[str]]:
        """Exit status, and the program's arguments of each call."""
        self.log.write_text("")
        self.conf.write_text(f"rsock_nf_program={self.program}\n{conf}\n")
        environment = {"PATH": "/usr/bin:/bin", "LOG": str(self.log), "RC_CONF": str(self.conf)}
        done = subprocess.run(
            ["sh", "-u", str(self.script), verb],
            env=environment,
            check=False,
            timeout=20,
            text=True,
            capture_output=True,
        )
        assert not done.stderr
        return done.returncode, self.log.read_text().splitlines()


def test_freebsd_starts_and_stops_every_configuration(tmp_path: Path) -> None:
    rc = Rc(tmp_path, "rsock_nf", FREEBSD_SUBR)
    two = 'rsock_nf_configs="/a.json /b.json"'
    assert rc.run("start", two) == (
        0,
        ["module pf", "up --config /a.json --timeout 15", "up --config /b.json --timeout 15"],
    )
    assert rc.run("stop", f'{two}\nrsock_nf_modules=""') == (0, ["down --config /a.json", "down --config /b.json"])
    assert rc.run("check") == (0, ["module pf", "check --config /usr/local/etc/rsock-nf/server.json"])


def test_freebsd_one_that_fails_does_not_keep_the_others(tmp_path: Path) -> None:
    rc = Rc(tmp_path, "rsock_nf", FREEBSD_SUBR)
    conf = 'rsock_nf_configs="/bad.json /b.json"\nrsock_nf_modules=""\nrsock_nf_timeout=5'
    assert rc.run("start", conf) == (3, ["up --config /bad.json --timeout 5", "up --config /b.json --timeout 5"])
    assert rc.run("status", conf)[0] == 3


@pytest.mark.parametrize(("verb", "command"), [("start", "up"), ("check", "status"), ("stop", "down")])
def test_openbsd(tmp_path: Path, verb: str, command: str) -> None:
    rc = Rc(tmp_path, "rsock_nf.openbsd", OPENBSD_SUBR)
    assert rc.run(verb) == (0, [f"{command} --config /etc/rsock-nf/server.json"])


def test_launchd_runs_a_command_that_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    """ProgramArguments parse as our own command line, and ask for the foreground: launchd(8) wants its child to
    stay."""
    with (CONTRIB / "macos" / "io.github.rsock-nf.plist").open("rb") as file:
        job = plistlib.load(file)
    program, *arguments = job["ProgramArguments"]
    seen: list[argparse.Namespace] = []

    def run(parsed: argparse.Namespace) -> int:
        seen.append(parsed)
        return 0

    monkeypatch.setattr(up, "run", run)
    assert Path(program).is_absolute()
    assert cli.main(arguments) == 0
    assert seen[0].foreground
    assert seen[0].config.is_absolute()
    assert job["Label"] == "io.github.rsock-nf"
    assert job["KeepAlive"] == {"SuccessfulExit": False}, "`down` must not be undone by launchd"
