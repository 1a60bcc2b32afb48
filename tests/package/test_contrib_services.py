"""The start scripts for OpenRC and procd, as far as they can be run here: with stand-ins for what the systems
provide."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rsock_nf.config.places import SUFFIXES

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
start) start_pre && for file in ${required_files:-}; do echo "needs $file" >>"$LOG"; done &&
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
        logger = directory / "logger"
        logger.write_text('#!/bin/sh\necho "logger $*" >>"$LOG"\n')
        for path in (self.program, supervisor, logger):
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
    assert openrc.run("start", **service) == (
        0,
        [
            "check wg-0",
            f"supervise-daemon: {openrc.program} up --foreground --user rsock-nf wg-0",
        ],
    )
    assert openrc.run("stop", **service) == (0, ["down wg-0"])
    assert openrc.run("reload", **service) == (0, ["supervise-daemon rsock-nf.wg-0 --signal HUP"])


def test_openrc_the_user_may_be_left_out_and_a_wrong_file_does_not_start(openrc: Host) -> None:
    service = {"RC_SVCNAME": "rsock-nf.x", "rsock_nf_program": str(openrc.program), "rsock_nf_user": ""}
    checked, needed, started = openrc.run("start", **service, rsock_nf_config="/x.json")[1]
    assert (checked, needed) == ("check /x.json", "needs /x.json")
    assert started.split() == ["supervise-daemon:", str(openrc.program), "up", "--foreground", "/x.json"]
    assert openrc.run("start", **service, rsock_nf_config="/bad.json") == (3, ["check /bad.json"])


def test_procd_starts_every_file_but_those_that_are_wrong(tmp_path: Path) -> None:
    host = Host(tmp_path, CONTRIB / "openwrt" / "files" / "rsock-nf.init", PROCD)
    files = tmp_path / "etc"
    files.mkdir()
    variables = {"RSOCK_NF_PROGRAM": str(host.program), "RSOCK_NF_CONFIG_DIR": str(files)}
    assert host.run("start", **variables) == (0, []), "there is none"
    for name in ("bad.json", "home.json", "office.yaml"):
        (files / name).touch()
    status, called = host.run("start", **variables)
    assert status == 0
    assert [line for line in called if line.startswith(("check", "instance", "command"))] == [
        f"check --config {files}/bad.json",
        f"check --config {files}/home.json",
        "instance home",
        f"command {host.program} up --foreground --config {files}/home.json",
        f"check --config {files}/office.yaml",
        "instance office",
        f"command {host.program} up --foreground --config {files}/office.yaml",
    ]
    assert f"file {files}/home.json" in called
    assert "reload_signal HUP" in called


def test_procd_knows_every_suffix_and_starts_a_name_once(tmp_path: Path) -> None:
    host = Host(tmp_path, CONTRIB / "openwrt" / "files" / "rsock-nf.init", PROCD)
    files = tmp_path / "etc"
    files.mkdir()
    for number, suffix in enumerate(SUFFIXES):
        (files / f"{number}{suffix}").touch()
    (files / "0.toml").touch()
    (files / "notes.txt").touch()
    _, called = host.run("start", RSOCK_NF_PROGRAM=str(host.program), RSOCK_NF_CONFIG_DIR=str(files))
    started = [line for line in called if line.startswith("instance")]
    assert started == [f"instance {number}" for number in range(len(SUFFIXES))]
    assert f"file {files}/0{SUFFIXES[0]}" in called
    (refused,) = [line for line in called if line.startswith("logger")]
    assert refused.endswith(f"{files}/0.toml: another file of 0 was started: remove one of them")
