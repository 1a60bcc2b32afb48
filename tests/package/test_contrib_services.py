"""The start scripts for OpenRC and procd, as far as they can be run here: with stand-ins for what the systems provide."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

CONTRIB = Path(__file__).parents[2] / "contrib"
PROGRAM = """#!/bin/sh
echo "$*" >>"$LOG"
case "$*" in *bad*) exit 3;; esac
"""
# What openrc-run(8) does around a script, as far as this one asks for it.
OPENRC = """
ebegin() { :; }
eend() { return "$1"; }
need() { :; }; want() { :; }; after() { :; }; use() { :; }
. "$SCRIPT"
depend
case $1 in
start) start_pre && for file in $required_files; do echo "needs $file" >>"$LOG"; done &&
    echo "$supervisor: $command $command_args" >>"$LOG" ;;
stop) stop_post ;;
*) "$1" ;;
esac
"""
# What /lib/functions/procd.sh does, in one line each.
PROCD = """
procd_open_instance() { echo "instance $1" >>"$LOG"; }
procd_set_param() { echo "$*" >>"$LOG"; }
procd_close_instance() { :; }
. "$SCRIPT"
start_service
"""


class Host:
    """One script, with a program that writes down how it was called."""

    def __init__(self, directory: Path, script: Path, around: str) -> None:
        self.directory, self.script, self.around, self.log = directory, script, around, directory / "log"
        self.program = directory / "rsock-nf"
        self.program.write_text(PROGRAM)
        supervisor = directory / "supervise-daemon"
        supervisor.write_text('#!/bin/sh\necho "supervise-daemon $*" >>"$LOG"\n')
        for path in (self.program, supervisor):
            path.chmod(0o755)

    def run(self, verb: str, **variables: str) -> tuple[int, list[str]]:
        """Exit status, and what was called."""
        self.log.write_text("")
        environment = {
            "PATH": f"{self.directory}:/usr/bin:/bin",
            "LOG": str(self.log),
            "SCRIPT": str(self.script),
            **variables,
        }
        done = subprocess.run(
            ["sh", "-uc", self.around, "sh", verb],
            env=environment,
            check=False,
            timeout=20,
            text=True,
            capture_output=True,
        )
        assert not done.stderr
        return done.returncode, self.log.read_text().splitlines()


@pytest.fixture
def openrc(tmp_path: Path) -> Host:
    return Host(tmp_path, CONTRIB / "openrc" / "rsock-nf", OPENRC)


def test_openrc_a_link_is_a_tunnel(openrc: Host) -> None:
    service = {"RC_SVCNAME": "rsock-nf.wg-0", "rsock_nf_program": str(openrc.program)}
    file = "/etc/rsock-nf/wg-0.json"
    assert openrc.run("start", **service) == (
        0,
        [
            f"check --config {file}",
            f"needs {file}",
            f"supervise-daemon: {openrc.program} up --foreground --user rsock-nf --config {file}",
        ],
    )
    assert openrc.run("stop", **service) == (0, [f"down --config {file}"])
    assert openrc.run("reload", **service) == (0, ["supervise-daemon rsock-nf.wg-0 --signal HUP"])


def test_openrc_the_user_may_be_left_out_and_a_wrong_file_does_not_start(openrc: Host) -> None:
    service = {"RC_SVCNAME": "rsock-nf.x", "rsock_nf_program": str(openrc.program), "rsock_nf_user": ""}
    assert openrc.run("start", **service, rsock_nf_config="/x.json")[1][-1].split(": ")[1].split() == [
        str(openrc.program), "up", "--foreground", "--config", "/x.json",
    ]  # fmt: skip
    assert openrc.run("start", **service, rsock_nf_config="/bad.json") == (3, ["check --config /bad.json"])


def test_procd_starts_every_file_but_those_that_are_wrong(tmp_path: Path) -> None:
    host = Host(tmp_path, CONTRIB / "openwrt" / "files" / "rsock-nf.init", PROCD)
    files = tmp_path / "etc"
    files.mkdir()
    variables = {"RSOCK_NF_PROGRAM": str(host.program), "RSOCK_NF_CONFIG_DIR": str(files)}
    assert host.run("start", **variables) == (0, []), "there is none"
    for name in ("bad", "home", "office"):
        (files / f"{name}.json").touch()
    status, called = host.run("start", **variables)
    assert status == 0
    assert [line for line in called if line.startswith(("check", "instance", "command"))] == [
        f"check --config {files}/bad.json",
        f"check --config {files}/home.json",
        "instance home",
        f"command {host.program} up --foreground --config {files}/home.json",
        f"check --config {files}/office.json",
        "instance office",
        f"command {host.program} up --foreground --config {files}/office.json",
    ]
    assert f"file {files}/home.json" in called
    assert "reload_signal HUP" in called
