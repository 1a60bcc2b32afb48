"""The instance's end of the control socket, where descriptors or patience are short."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rsock_nf.ops.control_socket.serve import listen, serve_control

LOG = logging.getLogger("tests.control")


@contextlib.contextmanager
def no_descriptor_left(*, spare: int) -> Iterator[None]:
    """As where conversations have taken all: only ``spare`` more can be opened."""
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, usual[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(spare):
            os.close(taken.pop())
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)


def asker(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.setblocking(False)
    made.connect(str(path))
    return made


async def answer(connection: socket.socket) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(connection, b'{"verb": "status"}\n')
    answered = b""
    while not answered.endswith(b"\n"):
        read = await loop.sock_recv(connection, 1 << 16)
        assert read, "it hung up"
        answered += read
    found: dict[str, Any] = json.loads(answered)
    return found


def test_who_asks_is_answered_with_the_last_descriptor_and_the_log_has_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, without a pause: whoever has been answered gives the descriptor back."""
    monkeypatch.setattr("rsock_nf.ops.control_socket.serve._PAUSE", 1000.0)
    path = tmp_path / "control"

    async def ask_three_times() -> list[dict[str, Any]]:
        async with await serve_control(listen(path), {"status": lambda _: {"name": "x"}}, LOG):
            with no_descriptor_left(spare=3):
                askers = [asker(path) for _ in range(3)]
                try:
                    for _ in range(20):  # nobody has asked anything yet, and one has the descriptor
                        await asyncio.sleep(0)
                    return await asyncio.wait_for(asyncio.gather(*[answer(one) for one in askers]), 20)
                finally:
                    for one in askers:
                        one.close()

    assert asyncio.run(ask_three_times()) == [{"ok": True, "answer": {"name": "x"}}] * 3
    assert [record.message for record in caplog.records] == [
        (
            "control: no descriptor for who asks: Too many open files: "
            "raise its limit of open files (LimitNOFILE= in systemd, ulimit -n)"
        )
    ]


def test_without_even_the_kept_one_it_waits_and_answers_when_there_is_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsock_nf.ops.control_socket.serve._PAUSE", 0.01)
    path = tmp_path / "control"

    async def ask_later() -> dict[str, Any]:
        async with await serve_control(listen(path), {"status": lambda _: {}}, LOG) as server:
            assert server._spare is not None
            os.close(server._spare)
            server._spare = None
            with no_descriptor_left(spare=1):
                one = asker(path)
                while not caplog.records:  # noqa: ASYNC110 - nothing announces a log line
                    await asyncio.sleep(0)
            with one:
                return await asyncio.wait_for(answer(one), 20)

    assert asyncio.run(ask_later())["ok"]
    assert len(caplog.records) == 1


def test_many_askers_are_taken_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsock_nf.ops.control_socket.serve._MOST", 2)
    path = tmp_path / "control"

    async def ask_all() -> list[dict[str, Any]]:
        async with await serve_control(listen(path), {"status": lambda _: {}}, LOG) as server:
            with contextlib.ExitStack() as stack:
                askers = [stack.enter_context(asker(path)) for _ in range(8)]
                while len(server._askers) < 2:  # noqa: ASYNC110 - nothing announces an asker
                    await asyncio.sleep(0)
                for _ in range(20):
                    await asyncio.sleep(0)
                    assert len(server._askers) <= 2
                return await asyncio.wait_for(asyncio.gather(*[answer(one) for one in askers]), 20)

    assert all(found["ok"] for found in asyncio.run(ask_all()))


def test_an_answer_that_is_waited_for_holds_up_nobody_and_has_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "control"

    async def ask_two() -> tuple[dict[str, Any], bool]:
        wanted = asyncio.Event()

        async def late(_: dict[str, Any]) -> dict[str, Any]:
            await wanted.wait()
            return {"late": True}

        async with await serve_control(listen(path), {"late": late, "status": lambda _: {"name": "x"}}, LOG):
            with asker(path) as slow, asker(path) as quick:
                await asyncio.get_running_loop().sock_sendall(slow, b'{"verb": "late"}\n')
                assert (await answer(quick))["answer"] == {"name": "x"}
                wanted.set()
                return json.loads(await asyncio.get_running_loop().sock_recv(slow, 1 << 16)), True

    assert asyncio.run(asyncio.wait_for(ask_two(), 20)) == ({"ok": True, "answer": {"late": True}}, True)

    async def never(_: dict[str, Any]) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def ask_never() -> Any:
        async with await serve_control(listen(path.with_name("other")), {"late": never}, LOG):
            with asker(path.with_name("other")) as one:
                await asyncio.get_running_loop().sock_sendall(one, b'{"verb": "late"}\n')
                return json.loads(await asyncio.get_running_loop().sock_recv(one, 1 << 16))

    monkeypatch.setattr("rsock_nf.ops.control_socket.serve._THOUGHT", 0.01)
    refused = asyncio.run(asyncio.wait_for(ask_never(), 20))
    assert refused == {"ok": False, "error": "late takes longer than 0.01 s"}
    assert caplog.records == []
