"""The fuzzer of the native data path, in short: its corpus and mutations of it, watched by sanitizers; and that it
finds what it is for.

``make fuzz`` goes on from there (``fuzz/run.py``).
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from rsock_nf.native.sources import SOURCES
from tests.native.fuzz.compile import replay
from tests.native.fuzz.run import CORPUS

MUTATIONS = 300
FILES = sorted(CORPUS.iterdir())


def ran(program: Path, mutations: int) -> subprocess.CompletedProcess[str]:
    command = [str(program), "-n", str(mutations), *map(str, FILES)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=250, errors="replace")


@pytest.mark.slow
def test_the_corpus_and_mutations_of_it(tmp_path: Path) -> None:
    done = ran(replay(tmp_path / "replay"), MUTATIONS)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{len(FILES)} files, {MUTATIONS} mutations of them\n"
    assert len(FILES) > 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "right", "wrong", "told"),
    [
        ("in.c", "if (total <= length && ", "if (", "AddressSanitizer: heap-buffer-overflow"),
        ("in.c", "    flow->highest_ack = ack;", "    flow->highest_ack = ack + 1;", "acknowledged <= b->next_seq"),
    ],
    ids=["a length that is not checked", "a number that moves too far"],
)
def test_a_defect_is_found(file: str, right: str, wrong: str, told: str, tmp_path: Path) -> None:
    copy = shutil.copytree(SOURCES, tmp_path / "c")
    text = (copy / file).read_text()
    assert text.count(right) == 1
    (copy / file).write_text(text.replace(right, wrong))
    assert told in ran(replay(tmp_path / "replay", copy), MUTATIONS).stderr
