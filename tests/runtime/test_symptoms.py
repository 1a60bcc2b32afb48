"""Counters that grow become reasons, and stop being reasons, on a virtual clock."""

from __future__ import annotations

import pytest

from rsock_nf.runtime.reports.symptoms import LEAST, WINDOW, Symptoms

WHY = "192.0.2.1: no route"


def look(
    symptoms: Symptoms,
    now: float,
    *,
    unresolved: int = 0,
    late: int = 0,
    guarded: int | None = 0,
    repairs: int = 0,
    slow: bool = False,
) -> list[str]:
    symptoms.tick(
        now,
        unresolved=unresolved,
        late=late,
        missing=lambda: [WHY],
        guarded=lambda: guarded,
        repairs=repairs,
        slow=slow,
    )
    return symptoms.reasons()


def test_packets_that_cannot_be_sent() -> None:
    symptoms = Symptoms(None)
    assert look(symptoms, 0.0) == []
    assert look(symptoms, 1.0, unresolved=LEAST - 1) == [], "a few are normal"
    assert look(symptoms, 2.0, unresolved=LEAST) == [f"packets cannot be sent to {WHY}"]
    assert look(symptoms, 3.0 + WINDOW, unresolved=LEAST) == [], "no more since"


def test_a_host_that_is_too_slow() -> None:
    symptoms = Symptoms(None)
    assert look(symptoms, 0.0, late=100) == [], "from before the first look"
    (said,) = look(symptoms, 1.0, late=1100)
    assert "too slow" in said
    assert look(symptoms, 2.0 + WINDOW, late=1100) == []


@pytest.mark.parametrize(("device", "remedy"), [("eth0", 'remove "device"'), (None, "rsock-nf doctor")])
@pytest.mark.parametrize("slow", [False, True])
def test_packets_that_reach_the_kernel_are_told_within_ten_seconds(device: str | None, remedy: str, slow: bool) -> None:  # noqa: FBT001
    symptoms = Symptoms(device)
    look(symptoms, 100.0, slow=slow)
    found = [look(symptoms, 100.0 + second, guarded=second, slow=slow) for second in range(1, 11)]
    assert found[0] == []
    (reason,) = found[-1]
    assert "packets for our ports" in reason
    assert remedy in reason


def test_what_came_while_the_rules_were_gone_means_nothing() -> None:
    symptoms = Symptoms(None)
    look(symptoms, 100.0)
    assert look(symptoms, 104.0, guarded=500, repairs=1) == []
    assert look(symptoms, 108.0, guarded=501, repairs=1) == []
    assert len(look(symptoms, 112.0, guarded=601, repairs=1)) == 1


def test_rules_that_cannot_be_asked_now_change_nothing() -> None:
    symptoms = Symptoms(None)
    look(symptoms, 0.0)
    look(symptoms, 4.0, guarded=100)
    assert len(symptoms.reasons()) == 1
    assert len(look(symptoms, 8.0, guarded=None)) == 1
    assert look(symptoms, 16.0, guarded=100) == []
