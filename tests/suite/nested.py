"""A run of pytest that a test starts, with this suite's configuration and fixtures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.evidence import OUT_VARIABLE

ROOT = Path(__file__).parents[2]


def nested(directory: Path, code: str, *options: str, **variables: str) -> tuple[list[str], dict[str, str]]:
    """The command that runs the tests of ``code``, and its environment; all that it makes is in ``directory``."""
    (directory / "test_it.py").write_text(code)
    argv = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(directory)]
    argv += ["-p", "tests.conftest", "-p", "tests.netns.conftest", "-p", "no:cacheprovider"]
    argv += ["--basetemp", str(directory / "tmp"), *options, str(directory / "test_it.py")]
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # no worker of this run
    own |= {"PYTHONPATH": f"{ROOT}:{ROOT / 'firewall'}", OUT_VARIABLE: str(directory / "out"), **variables}
    return argv, own


def run(directory: Path, code: str, *options: str, **variables: str) -> str:
    """What it says."""
    argv, own = nested(directory, code, *options, **variables)
    said = subprocess.run(argv, cwd=ROOT, env=own, capture_output=True, text=True, timeout=200, check=False)
    return said.stdout + said.stderr
