"""The native data path under AddressSanitizer and UndefinedBehaviorSanitizer, in short.

The long run: ``make asan``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHORT = (
    "tests/native/test_differential.py",
    "tests/netns/test_wire.py::test_segments_merged_by_gro_are_told_apart",
)


def sanitized(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [str(root / ".ci/sanitized"), "-q", "-n", "0", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=550, env=environment)


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.timeout(600)
def test_both_pumps_against_each_other_and_a_tunnel() -> None:
    done = sanitized(ROOT, *SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.timeout(600)
def test_a_read_beyond_a_buffer_in_a_daemon_is_found(tmp_path: Path) -> None:
    """Nobody reads a daemon's standard error; its report is found all the same."""
    for name in (".ci", "rsock_nf", "firewall", "tests", "bench"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "out"))
    for name in ("pyproject.toml", "hatch_build.py"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    loop = tmp_path / "rsock_nf/native/c/loop.c"
    right = "    if (flow->udp)\n        return 0; /* found by its carrier */\n"
    text = loop.read_text()
    wrong = "    uint8_t *volatile small = malloc(1);\n    small[1] = 0;\n"
    assert text.count(right) == 1
    loop.write_text(text.replace(right, wrong + right))
    done = sanitized(tmp_path, SHORT[1])
    assert done.returncode == 1
    assert "AddressSanitizer: heap-buffer-overflow" in done.stdout
    assert "hot_put_flow" in done.stdout
