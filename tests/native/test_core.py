"""The tests of the core once more, with the native pump in front of every endpoint (``pytest --pump native``)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_ALONE = "not no_payload_does_any_harm and not gives_the_place_of_a_flow"
"""The first keeps its ends from one test to the next, and their sockets are closed by then.  The second counts an ACK
that the native pump of these tests, which waits for no timer, has sent before."""
CHOSEN = (
    *("answers", "attacks", "carriers", "conversations", "flows", "moving", "path_mtu", "rekey", "session", "traffic"),
    "weather",
)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # it is a suite of its own: two minutes for the longest, on an idle machine half of one
@pytest.mark.parametrize("name", CHOSEN)
def test_the_core_passes_its_tests(name: str) -> None:
    path = f"tests/core/test_{name}.py"
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--pump", "native", "-k", _ALONE, path]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
