"""How much a running tunnel carries: the conversation with the instance that tests, and the words.

The test itself is the instance's (``runtime.speedtest``).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Sequence
from typing import Any, Final, TypeAlias

from rsock_nf.errors import ControlError, RsockError
from rsock_nf.ops.control_socket.ask import ask
from rsock_nf.ops.instances.instance import Instance
from rsock_nf.ops.ping import Tally
from rsock_nf.ops.status.layout import Table

Told: TypeAlias = dict[str, Any]
"""As ``runtime.speedtest.asking`` tells it."""
DIRECTIONS: Final = ("down", "up")
_LOOK_AGAIN: Final = 0.25
_ENDS: Final = ("done", "failed")


def test(instance: Instance, seconds: float) -> Generator[Told, None, None]:
    """Begin a test, and tell how it goes, until it is done.

    Raises ``ControlError`` when it fails, ``InstanceError``.  A test that is left before its end is stopped.
    """
    told = ask(instance, "speedtest", {"do": "begin", "seconds": seconds})
    try:
        while told["phase"] not in _ENDS:
            yield told
            time.sleep(_LOOK_AGAIN)
            told = ask(instance, "speedtest", {"do": "look"})
    except BaseException:
        with contextlib.suppress(RsockError):
            ask(instance, "speedtest", {"do": "stop"})
        raise
    if told["phase"] == "failed":
        raise ControlError(f"instance {instance.name}: speed test: {told['error']}")
    yield told


def as_json(name: str, told: Told) -> dict[str, Any]:
    """Plain JSON types."""
    return {
        "name": name,
        "datagram_bytes": told["datagram_bytes"],
        "allowed_bits_per_second": told["allowed_bits_per_second"],
        "idle": _trips(told["idle_rtt_ms"]).as_json(),
        **{
            direction: {
                "bits_per_second": found["bits_per_second"],
                "loss": found["loss"],
                "settled": found["settled"],
                "under_load": _trips(found["rtt_ms"]).as_json(),
            }
            for direction, found in told["found"].items()
        },
    }


def table(told: Told) -> str:
    """For people: direction, rate, loss, round trips (min / avg / max ms)."""
    head = ("", "Mbit/s", "loss", "RTT min", "avg", "max ms")
    rows: list[tuple[str, ...]] = [("idle", "", "", *_times(told["idle_rtt_ms"]))]
    for direction in DIRECTIONS:
        found = told["found"][direction]
        rate = f"{found['bits_per_second'] / 1e6:.1f}"
        rows.append((direction, rate, f"{found['loss']:.1%}", *_times(found["rtt_ms"])))
    return Table(head, left=(0,), indent=0).text(rows)


def remark(told: Told) -> str:
    """What limits the result; empty = the path, or a processor."""
    if not all(found["settled"] for found in told["found"].values()):
        return "the rate was still growing when the time was over: try more --seconds"
    allowed = told["allowed_bits_per_second"]
    best = max(found["bits_per_second"] for found in told["found"].values())
    if best >= 0.9 * allowed:
        return f'the server allows {allowed / 1e6:g} Mbit/s: "speedtest" in its file'
    return ""


def _trips(times: Sequence[float | None]) -> Tally:
    tally = Tally()
    for one in times:
        tally.count(one)
    return tally


def _times(times: Sequence[float | None]) -> tuple[str, str, str]:
    spread = _trips(times).spread()
    if spread is None:
        return ("-", "-", "-")
    return (f"{spread['min']:.1f}", f"{spread['avg']:.1f}", f"{spread['max']:.1f}")
