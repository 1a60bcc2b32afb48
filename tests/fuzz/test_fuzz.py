"""Every function that takes bytes from outside gives a value or ``Malformed``, and nothing else.

The number of mutations follows hypothesis' profile: ``make fuzz`` tries a hundred times as many.
"""

import random
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings

from tests.fuzz.limit import at_most
from tests.fuzz.mutate import mutated
from tests.fuzz.run import CORPUS, attempt, corpus_files, fuzz, main, starting_corpus
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

ROUNDS = 10 * settings().max_examples
STORED = [(name, file) for name in TARGETS for file in corpus_files(name)]


def test_every_corpus_has_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= TARGETS.keys()
    assert len(STORED) > len(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_accepted(name: str) -> None:
    """Or nothing behind the first check would be fuzzed."""
    assert all(attempt(TARGETS[name], seed) for seed in TARGETS[name].seeds())


@pytest.mark.parametrize(("name", "file"), STORED, ids=lambda value: value.name if isinstance(value, Path) else value)
def test_replay(name: str, file: Path) -> None:
    attempt(TARGETS[name], file.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_mutations(name: str) -> None:
    rng, corpus = random.Random(f"test {name}"), starting_corpus(name)
    for _ in range(max(ROUNDS // TARGETS[name].cost, 1)):
        data = mutated(rng, corpus)
        try:
            attempt(TARGETS[name], data)
        except Exception as error:
            error.add_note(f"input: {data.hex()}")
            raise


def test_a_crash_is_found_stored_and_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The fuzzer itself: a parser that fails on one byte in a thousand does not get through."""

    def fragile(data: bytes) -> object:
        return {byte: byte for byte in range(256) if byte != 0xA5}[data[0]] if data else None

    monkeypatch.setattr("tests.fuzz.run.CORPUS", tmp_path)
    monkeypatch.setitem(TARGETS, "fragile", Target(fragile, lambda: [b"seed"]))
    assert main(["--target", "fragile", "--seconds", "0.5"]) == 1
    assert "KeyError" in capsys.readouterr().err
    (crash,) = (tmp_path / "fragile").iterdir()
    assert crash.read_bytes()[0] == 0xA5
    assert fuzz("fragile", 0, 0, store=False)[2] == 1


def test_an_attempt_that_does_not_end_is_a_crash(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever it catches: the limit is no ``Exception``."""

    def endless(data: bytes) -> object:
        while data[:1] == b"\xa5":
            with suppress(Exception):
                hash(data)
        return None

    monkeypatch.setattr("tests.fuzz.run.CORPUS", tmp_path)
    monkeypatch.setattr(Target, "limit", 0.1)
    monkeypatch.setitem(TARGETS, "endless", Target(endless, lambda: [b"\xa5", b"seed"]))
    assert main(["--target", "endless", "--seconds", "0"]) == 1
    assert "more than 0.1 s of processor time" in capsys.readouterr().err
    (crash,) = (tmp_path / "endless").iterdir()
    assert crash.read_bytes() == b"\xa5"


def test_a_limit_counts_processor_time_only() -> None:
    stopped = threading.Event()
    with at_most(0.1):
        stopped.wait(0.3)
