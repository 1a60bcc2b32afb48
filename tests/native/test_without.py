"""A host without a compiler: everything works through Python, and who asks for the native data path gets one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rsock_nf.native.library import NOT_BUILT

ROOT = Path(__file__).parents[2]


@pytest.fixture
def without(tmp_path: Path) -> Path:
    """The packages, but not the module."""
    left_out = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "rsock_nf", tmp_path / "rsock_nf", ignore=left_out)
    shutil.copytree(ROOT / "firewall/rsock_firewall", tmp_path / "rsock_firewall", ignore=left_out)
    return tmp_path


def ran(without: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(without), "RSOCK_NF_RUN_DIR": str(without / "run")}
    command = [sys.executable, "-P", "-m", "rsock_nf", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment, cwd="/")


@pytest.mark.root
@pytest.mark.slow
def test_the_demonstration_works(without: Path) -> None:
    done = ran(without, "demo")
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_was_asked_for_is_refused_in_one_line(without: Path) -> None:
    path = without / "edge.json"
    keys = {
        "role": "server",
        "target": "127.0.0.1:9",
        "ports": "20001-20003",
        "secret": ran(without, "genkey").stdout.strip(),
    }
    path.write_text(json.dumps({**keys, "type": "udp", "cipher": "aes-256-gcm", "pump": "native"}))
    path.chmod(0o600)
    done = ran(without, "up", "--config", str(path))
    assert done.returncode == 1
    assert done.stderr == f'rsock-nf: pump: there is no native data path: {NOT_BUILT}; "auto" takes Python\'s\n'
