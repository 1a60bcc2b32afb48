"""The short form of ``make attacks``: nothing forged or twice where it is sealed, and the honest client still works.

What an attack costs is in docs/security-tests.md: a busy machine tells nothing of it.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.attacks import elsewhere
from tests.attacks.amplification import Answered, amplification, rows
from tests.attacks.attack import RSOCK, SEALED, SEALED6, SEALED_UDP, SEALED_UDP6, TCP
from tests.attacks.measure import measure
from tests.attacks.table import ATTACKS, BY_NAME
from tests.attacks.volley import restored, stored
from tests.faults.field import Variant

ROOT = Path(__file__).parents[2]
DEFINED = re.compile(r"^ *def (test_\w+)\(", re.MULTILINE)
SHORT = [
    ("syn_5k", SEALED), ("garbage_udp", SEALED_UDP), ("same_nat_tcp", SEALED), ("neighbour_in_flows", SEALED),
    ("replay", TCP), ("replay_ahead", SEALED), ("replay_other_flow", SEALED_UDP), ("replay_openings", SEALED_UDP),
    ("racer", SEALED_UDP), ("rst_right", SEALED), ("odd_tcp", SEALED), ("fragments", SEALED), ("icmp_seen", SEALED),
    ("hellos", SEALED_UDP), ("insider_conversations", SEALED_UDP),
    ("neighbour_in_flows", SEALED6), ("replay_openings", SEALED_UDP6), ("odd_tcp_client", RSOCK), ("rst_right", RSOCK),
]  # fmt: skip


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize(("name", "variant"), SHORT, ids=[f"{name}-{kind.name}" for name, kind in SHORT])
def test_an_attack_forges_nothing_and_the_client_still_works(name: str, variant: Variant) -> None:
    outcome = measure(BY_NAME[name], variant, after=8.0)
    assert outcome.offences(BY_NAME[name]) == []
    assert outcome.done.packets
    assert outcome.sent > 500


@pytest.mark.root
def test_no_answer_to_a_stranger_is_larger_than_what_came() -> None:
    lines, wrong = rows(amplification())
    assert wrong == []
    assert sum(not line.endswith("| 0 |") for line in lines) > 10, "some are answered"


def test_a_larger_answer_is_found_in_either_family() -> None:
    small, large = [Answered("SYN", 60, 60)], [Answered("SYN", 40, 44)]
    lines, wrong = rows(small, large)
    assert wrong == ["amplification: SYN: 40 in, 44 out"]
    assert lines[-1] == "| SYN | 60 | 60 | 40 | 44 |"
    assert rows(large, small)[1] == wrong


def test_every_attack_has_a_name_of_its_own_and_says_why_it_ends_so() -> None:
    assert len(BY_NAME) == len(ATTACKS) >= 40
    assert all(attack.why for attack in ATTACKS)


@pytest.mark.parametrize("one", elsewhere.ELSEWHERE, ids=lambda one: one.what)
def test_what_is_said_to_be_tested_elsewhere_is(one: elsewhere.Elsewhere) -> None:
    assert set(one.tests) - set(DEFINED.findall((ROOT / one.file).read_text())) == set()


def test_what_security_md_names_is_there() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    defined = {name for path in (ROOT / "tests").rglob("test_*.py") for name in DEFINED.findall(path.read_text())}
    tests = set(re.findall(r"`(test_\w+)`", text))
    rows = {name for some in re.findall(r"\brows? ((?:`\w+`[,\s]*)+)", text) for name in re.findall(r"`(\w+)`", some)}
    assert len(tests) > 30
    assert len(rows) > 20
    assert tests - defined == set()
    assert rows - set(BY_NAME) - tests == set()


def test_frames_come_out_of_their_file_as_they_were() -> None:
    frames = [b"", b"a", bytes(1514)]
    assert restored(stored(frames)) == frames
