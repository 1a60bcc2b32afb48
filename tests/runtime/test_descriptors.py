"""Where too few descriptors are left."""

from __future__ import annotations

import errno
import os

import pytest

from rsock_nf.link.linux.system import Linux
from rsock_nf.runtime.host.descriptors import NEEDED, RulesPlace, too_few_left
from tests.ops.test_control_socket import no_descriptor_left


def test_whether_too_few_are_left() -> None:
    assert not too_few_left()
    for spare in range(NEEDED):
        with no_descriptor_left(spare=spare):
            assert too_few_left()
    with no_descriptor_left(spare=NEEDED):
        assert not too_few_left()


def test_the_rules_stay_where_they_had_to_be_last(monkeypatch: pytest.MonkeyPatch) -> None:
    place = RulesPlace()
    answers: list[bool | OSError] = [True, OSError(errno.EMFILE, os.strerror(errno.EMFILE)), False]

    def answer(_: object) -> bool:
        said = answers.pop(0)
        if isinstance(said, OSError):
            raise said
        return said

    monkeypatch.setattr(Linux, "drops_at_input", answer)
    assert [place.at_input() for _ in range(3)] == [True, True, False]
    answers.append(OSError(errno.EACCES, "no"))
    with pytest.raises(PermissionError):
        place.at_input()
