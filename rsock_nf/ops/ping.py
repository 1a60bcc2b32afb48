"""Round trips through a running tunnel, from this process's instance to the one at the other end: ``rsock-nf ping``.

The instance sends the pings and measures (``runtime.pings``); here is the conversation with it, and the words.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from rsock_nf.ops.control_socket.ask import ask
from rsock_nf.ops.instances.instance import Instance
from rsock_nf.ops.status.layout import Table

Reply: TypeAlias = dict[str, Any]
"""As ``runtime.pings`` has it; ``rtt_ms`` is None where no answer came in time."""

_GRACE = 3.0
"""Seconds that the instance gets besides the patience that it was asked for."""


class Wish(NamedTuple):
    """What the operator asked for."""

    times: int | None
    """Rounds; None = until Ctrl-C."""
    interval: float
    """Seconds from one round to the next."""
    patience: float
    """Seconds to wait for an answer."""
    every_flow: bool


class Round(NamedTuple):
    """What came of one round."""

    number: int
    """From 1 on."""
    replies: Sequence[Reply]
    """Empty = there was no flow."""
    reason: str
    """Why there was none."""


def rounds(instance: Instance, wish: Wish) -> Iterator[Round]:
    """One after the other.  Raises ``InstanceError`` or ``ControlError`` when the instance cannot be asked."""
    number = 0
    due = time.monotonic()
    while wish.times is None or number < wish.times:
        time.sleep(max(due - time.monotonic(), 0.0))
        fields = {"flows": wish.every_flow, "turn": number, "patience": wish.patience}
        answer = ask(instance, "ping", fields, timeout=wish.patience + _GRACE)
        number += 1
        due = max(due + wish.interval, time.monotonic())
        yield Round(number, answer["replies"], str(answer.get("reason", "")))


@dataclass(slots=True)
class Tally:
    """What came of several pings: of one flow, or of all."""

    sent: int = 0
    times: list[float] = field(default_factory=list)
    """Milliseconds, of those that were answered."""

    def count(self, rtt_ms: float | None) -> None:
        """One more."""
        self.sent += 1
        if rtt_ms is not None:
            self.times.append(rtt_ms)

    @property
    def loss(self) -> float:
        """The share that was not answered, 0 to 1; 1 if nothing could be sent."""
        return 1 - len(self.times) / self.sent if self.sent else 1.0

    def spread(self) -> dict[str, float] | None:
        """Milliseconds: ``min``, ``avg``, ``max``, ``mdev`` as ping(8) has them; None = nothing was answered."""
        if not self.times:
            return None
        mean = math.fsum(self.times) / len(self.times)
        deviation = math.sqrt(math.fsum((one - mean) ** 2 for one in self.times) / len(self.times))
        named = {"min": min(self.times), "avg": mean, "max": max(self.times), "mdev": deviation}
        return {name: round(value, 3) for name, value in named.items()}

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "sent": self.sent,
            "answered": len(self.times),
            "loss": round(self.loss, 4),
            "rtt_ms": self.spread(),
        }


@dataclass(slots=True)
class Summary:
    """Of all rounds."""

    name: str
    started: float = field(default_factory=time.monotonic)
    total: Tally = field(default_factory=Tally)
    flows: dict[tuple[str, int], tuple[Reply, Tally]] = field(default_factory=dict)
    """By session and flow: its newest reply, and what came of its pings."""
    without_flow: int = 0
    """Rounds in which there was no flow."""

    def add(self, one: Round) -> None:
        """Count a round."""
        if not one.replies:
            self.without_flow += 1
            self.total.count(None)
        for reply in one.replies:
            self.total.count(reply["rtt_ms"])
            key = str(reply["session"]), int(reply["flow"])
            _, tally = self.flows.get(key, (reply, Tally()))
            tally.count(reply["rtt_ms"])
            self.flows[key] = reply, tally

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        described = ("session", "flow", "type", "local", "remote")
        flows = [{**{key: reply[key] for key in described}, **tally.as_json()} for reply, tally in self.flows.values()]
        return {"name": self.name, **self.total.as_json(), "without_flow": self.without_flow, "flows": flows}

    def lines(self, *, every_flow: bool) -> list[str]:
        """The end of what people read."""
        spent = round((time.monotonic() - self.started) * 1000)
        table = _table([(reply, tally) for _, (reply, tally) in sorted(self.flows.items())]) if every_flow else []
        return [f"--- {self.name} ping statistics ---", *table, *_totals(self.total, spent)]


def line(one: Round) -> list[str]:
    """A round for people: a line for each ping."""
    if not one.replies:
        return [f"seq={one.number} no flow is up: {one.reason or 'nothing is known of the other end'}"]
    return [
        f"{'no answer from' if reply['rtt_ms'] is None else 'from'} {reply['remote']}: "
        f"seq={one.number} {_worker(reply)}flow={reply['flow']} {reply['type']}" + _time(reply["rtt_ms"])
        for reply in one.replies
    ]


def _worker(reply: Reply) -> str:
    """Flows of two workers may have the same number."""
    return f"worker={reply['worker']} " if "worker" in reply else ""


def _time(rtt_ms: float | None) -> str:
    return "" if rtt_ms is None else f" time={_short(rtt_ms)} ms"


def _totals(total: Tally, spent: int) -> list[str]:
    first = f"{total.sent} sent, {len(total.times)} answered, {total.loss:.0%} loss, time {spent} ms"
    spread = total.spread()
    if spread is None:
        return [first]
    return [first, f"rtt min/avg/max/mdev = {'/'.join(f'{value:.3f}' for value in spread.values())} ms"]


def _table(flows: Sequence[tuple[Reply, Tally]]) -> list[str]:
    rows = []
    for reply, tally in flows:
        spread = tally.spread()
        times = [_short(spread[name]) for name in ("min", "avg", "max")] if spread else ["-"] * 3
        number = f"{reply['worker']}:{reply['flow']}" if "worker" in reply else str(reply["flow"])
        rows.append((number, reply["type"], reply["remote"], str(tally.sent), f"{tally.loss:.0%}", *times))
    head = ("flow", "type", "remote", "sent", "loss", "min", "avg", "max ms")
    return Table(head, left=(1, 2), indent=0).text(rows).splitlines()


def _short(milliseconds: float) -> str:
    """Three digits that count, as ping(8) has them."""
    return f"{milliseconds:.{2 if milliseconds < 10 else 1 if milliseconds < 100 else 0}f}"
