"""A server that may open fewer files than it may have conversations."""

from __future__ import annotations

import logging
import resource

import pytest

from rsock_nf.core.parameters import ServerParameters
from rsock_nf.runtime.host import conversation_limit
from rsock_nf.settings import SecondWire
from rsock_nf.wire.parameters import NativeParameters

LOG = logging.getLogger("tests.conversation_limit")


def allow(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """The process may open ``room`` sockets for conversations."""
    limit = room + conversation_limit.SPARE + 5
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    monkeypatch.setattr(conversation_limit, "_open_now", lambda: 5)


def test_enough_files(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    allow(monkeypatch, 4096)
    parameters = ServerParameters()
    assert conversation_limit.fit(parameters, None, LOG) == (parameters, None)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert conversation_limit.fit(parameters, None, LOG) == (parameters, None)
    assert not caplog.records


def test_too_few_files(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    allow(monkeypatch, 900)
    fitted, second = conversation_limit.fit(ServerParameters(max_conversations=4096), None, LOG)
    assert (fitted.max_conversations, second) == (900, None)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "max_conversations: 4096, but the process may open only 900 more files, which it takes instead: "
        "raise its limit of open files (LimitNOFILE=, ulimit -n) from 969 to 4165"
    )


def test_two_wires_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, 500)
    beside = SecondWire(ServerParameters(max_conversations=250), NativeParameters(bytes(32)))
    fitted, second = conversation_limit.fit(ServerParameters(max_conversations=750), beside, LOG)
    assert second is not None
    assert (fitted.max_conversations, second.tunnel.max_conversations) == (375, 125)
    allow(monkeypatch, -10)
    fitted, second = conversation_limit.fit(ServerParameters(max_conversations=750), None, LOG)
    assert fitted.max_conversations == 1


def test_what_is_open_is_counted() -> None:
    before = conversation_limit._open_now()
    with open("/dev/null"), open("/dev/null"):  # noqa: PTH123 - two descriptors, whatever is in them
        assert conversation_limit._open_now() == before + 2
