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
    "test_answers.py test_attacks.py test_carriers.py test_conversations.py",
    "test_flows.py test_path_mtu.py test_rekey.py test_session.py",
    "test_moving.py test_traffic.py test_weather.py",
)


@pytest.mark.slow
@pytest.mark.parametrize("files", CHOSEN)
def test_the_core_passes_its_tests(files: str) -> None:
    paths = [f"tests/core/{name}" for name in files.split()]
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--pump", "native", "-k", _ALONE, *paths]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
