"""The Debian package: built, then installed, used, and purged on a clean copy of this host."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rsock_nf import __version__

ROOT = Path(__file__).parents[2]
CLEAN = Path(__file__).with_name("clean_root.sh")

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("deb")]  # one worker builds it

LIFE = r"""
set -euo pipefail
say() { printf '== %s\n' "$*"; }
getent passwd >/tmp/users

say install
dpkg -i /package.deb
test "$(stat -c '%a %U %G' /etc/rsock-nf)" = '750 root rsock-nf'
test "$(stat -c '%a %U %G' /var/log/rsock-nf)" = '750 rsock-nf adm'
systemd-analyze verify /usr/lib/systemd/system/rsock-nf@.service
man -w rsock-nf rsock-nf.json
test -s /usr/share/bash-completion/completions/rsock-nf
test -s /usr/share/zsh/vendor-completions/_rsock-nf
test -s /usr/share/fish/vendor_completions.d/rsock-nf.fish

say run
rsock-nf --version
rsock-nf install-service --print | grep ^ExecStart
# A client behind a NAT, a server, real traffic, in namespaces.
rsock-nf demo --datagrams 500
ip link add uplink type veth peer name elsewhere
ip address add 192.0.2.1/24 dev uplink
ip link set uplink up; ip link set elsewhere up
secret=$(rsock-nf genkey)
install -m 640 -g rsock-nf /dev/stdin /etc/rsock-nf/edge.json <<JSON
{"role": "server", "addresses": ["192.0.2.1"], "target": "127.0.0.1:9", "secret": "$secret", "cipher": "aes-256-gcm"}
JSON
rsock-nf up --user rsock-nf --config /etc/rsock-nf/edge.json
rsock-nf status
pid=$(sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' /run/rsock-nf/edge/state.json)
ps -o user= -p "$pid"
nft list tables | grep rsock_nf

say reload
sed -i 's/"role"/"log": {"level": "debug"}, "role"/' /etc/rsock-nf/edge.json
kill -HUP "$pid"
end=$((SECONDS + 60))
until grep -q 'SIGHUP: ' /run/rsock-nf/edge/log; do ((SECONDS < end)); sleep 0.1; done
grep 'SIGHUP: ' /run/rsock-nf/edge/log

say again
dpkg -i /package.deb
kill -0 "$pid"

say purge
dpkg --purge rsock-nf
! kill -0 "$pid" 2>/dev/null
! nft list tables | grep rsock_nf
ip link delete uplink
getent passwd | diff /tmp/users -
# /mnt has what differs from this host: what Debian's own tools write, and the package itself.
tools='^/etc/(passwd|group|shadow|gshadow|subuid|subgid)-?$|^/etc/\.pwd\.lock$|^/var/(lib/dpkg|cache)/|^/package\.deb$'
find /mnt ! -type d -printf '/%P\n' | grep -Ev "$tools" && exit 1
find /etc /usr /var /run -name 'rsock?nf*' | grep . && exit 1
say done
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("deb")
    command = [str(ROOT / "release/deb"), sys.executable, str(directory)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def said(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_it_is_installed_used_and_purged(package: Path) -> None:
    done = subprocess.run(
        [str(CLEAN), str(package), "bash", "-c", LIFE], check=False, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    parts = dict(part.split("\n", 1) for part in re.split("^== ", done.stdout, flags=re.MULTILINE)[1:])
    assert f"rsock-nf {__version__}" in parts["run"]
    assert "-P /usr/lib/rsock-nf/rsock_nf/__main__.py up --foreground" in parts["run"]
    assert "edge" in parts["run"]
    assert "\nrsock-nf\n" in parts["run"], "the process is that user's"
    assert "SIGHUP: log level debug" in parts["reload"]
    assert "done" in parts


def test_its_fields_tell_what_it_needs(package: Path) -> None:
    fields = dict(
        line.split(": ", 1) for line in said("dpkg-deb", "--field", str(package)).splitlines() if line[0] != " "
    )
    assert fields["Version"] == __version__
    needs = fields["Depends"].split(", ")
    assert {"nftables", "adduser"} <= set(needs)
    assert [need for need in needs if need.startswith("python3 (<<")], "its libraries are compiled for one version"
    assert [need for need in needs if need.startswith("libssl3")], "the data path in C is in it"


def test_lintian_finds_no_error_that_is_not_meant(package: Path) -> None:
    """Meant: what PyPI's libraries are like, which Debian would package one by one."""
    meant = {
        "bad-distribution-in-changes-file",
        "embedded-library",
        "extended-description-line-too-long",
        "initial-upload-closes-no-bugs",
        "no-manual-page",
        "package-contains-documentation-outside-usr-share-doc",
        "python-package-defines-non-python-module",
        "unstripped-binary-or-object",
    }
    command = ["lintian", "--fail-on", "none", "--display-level", "=error", "--allow-root", "--no-tag-display-limit"]
    tags = {line.split()[2] for line in said(*command, str(package)).splitlines() if line.startswith("E: ")}
    assert tags - meant == set()


def test_all_of_it_is_roots_and_nobody_else_may_write_it_and_no_bytecode_is_in_it(package: Path) -> None:
    listed = [line.split() for line in said("dpkg-deb", "--contents", str(package)).splitlines()]
    assert {words[1] for words in listed} == {"root/root"}
    assert not [words for words in listed if words[0][0] != "l" and "w" in (words[0][5], words[0][8])]
    assert not [words for words in listed if "__pycache__" in words[5]]
    assert [words[0] for words in listed if words[5] == "./etc/rsock-nf/"] == ["drwxr-x---"]
