"""One fault on one tunnel: what was lost, for how long, and what ``status`` said."""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from rsock_nf.lab.netns import CommandFailed
from rsock_nf.lab.tunnel import Role
from tests.faults.field import AES, Field, Variant, carrying
from tests.faults.field import field as made_field
from tests.faults.load import WINDOW, Direction, delays_of, out
from tests.faults.scenarios import BY_NAME, Scenario

BEFORE = 2.0
"""Seconds of undisturbed load before the fault."""
SETTLED = 3.0
"""Seconds at the end of a run in which everything should be as before."""
GRACE = 0.5
"""Seconds before the end of a run whose datagrams may be still on their way."""
RECOVERED = 0.03
"""At most this share may be lost at the end."""


@dataclass(slots=True)
class Way:
    """What one direction lost."""

    lost: int
    sent: int
    out: float
    """Seconds for which more than half was lost, from the fault on."""
    out_after: float
    """The same, since the fault was taken away."""
    end_loss: float
    delay: float
    """99th percentile of the seconds under way, of what was sent during the fault and arrived."""


@dataclass(slots=True)
class Outcome:
    """What one run found."""

    scenario: Scenario
    variant: Variant
    up: Way
    down: Way
    misdelivered: int
    corrupted: int
    doubled: int
    flows: int
    """Flows of the client at the end."""
    least_flows: int
    """The fewest that it had at any time."""
    flows_after: float | None
    """Seconds after the fault until every flow carried; None = not in this run."""
    said: list[str] = field(default_factory=list)
    """The reasons that the client's ``status`` gave, in their order."""
    rsts: int = 0
    """RSTs that left our hosts, as the router saw them."""
    descriptors: tuple[int, int] = (0, 0)
    """How many more descriptors client and server have at the end."""

    @property
    def recovered(self) -> bool:
        """At the end all is as before."""
        fine = max(self.up.end_loss, self.down.end_loss) < RECOVERED
        return fine and self.flows >= self.variant.flows

    def faults(self) -> list[str]:
        """What is not as it should be, in words.  Numbers of time are asked of an idle machine only."""
        wrong = self.offences()
        bounds, both = self.scenario.bounds, (self.up, self.down)
        if bounds.out is not None and (worst := max(way.out_after for way in both)) > bounds.out:
            wrong.append(f"out for {worst:.1f} s after the fault, at most {bounds.out:g} s wanted")
        if bounds.lost is not None and (lost := sum(way.lost for way in both)) > bounds.lost:
            wrong.append(f"{lost} lost, at most {bounds.lost} wanted")
        if bounds.flows is not None and (self.flows_after is None or self.flows_after > bounds.flows):
            took = "not at all" if self.flows_after is None else f"after {self.flows_after:.1f} s"
            wrong.append(f"every flow carries {took}, wanted after {bounds.flows:g} s at most")
        if bounds.delay is not None and self.least_flows < self.variant.flows:
            wrong.append(f"only {self.least_flows} of {self.variant.flows} flows for a while")
        if bounds.delay is not None and (delay := max(way.delay for way in both)) > bounds.delay:
            wrong.append(f"delay of {delay:.2f} s, at most {bounds.delay:g} s wanted")
        return wrong

    def offences(self) -> list[str]:
        """What must never be, however busy the machine."""
        wrong = []
        if self.misdelivered:
            wrong.append(f"{self.misdelivered} datagrams for another conversation")
        if self.variant.cipher == AES and self.corrupted:
            wrong.append(f"{self.corrupted} corrupted datagrams")
        if self.variant.cipher == AES and self.doubled:
            wrong.append(f"{self.doubled} datagrams twice")
        if not self.scenario.stays and not self.recovered:
            worst = max(self.up.end_loss, self.down.end_loss)
            wrong.append(f"not recovered: {self.flows} of {self.variant.flows} flows, {worst:.0%} lost at the end")
        return wrong


def measure(scenario: Scenario, variant: Variant) -> Outcome:
    """Run it once."""
    with made_field(variant, rate=scenario.rate, sizes=scenario.sizes, direct=scenario.direct) as site:
        site.all_flows()
        _pass(BEFORE)
        before = _descriptors(site)
        with Watcher(site) as watcher:
            began = time.monotonic()
            with scenario.fault(site):
                _pass(scenario.seconds - (time.monotonic() - began))
            ended = time.monotonic()
            _pass(scenario.after)
        end = time.monotonic() - GRACE
        flows, after = site.flows(), _descriptors(site)
        rsts = site.lab.counters()
        up, down = site.load.directions()
        return Outcome(
            scenario=scenario,
            variant=variant,
            up=_way(up, began, ended, end),
            down=_way(down, began, ended, end),
            misdelivered=up.misdelivered + down.misdelivered,
            corrupted=up.corrupted + down.corrupted,
            doubled=up.doubled + down.doubled,
            flows=flows,
            least_flows=min(flows, watcher.least),
            flows_after=watcher.complete_after(ended, variant.flows),
            said=watcher.said,
            rsts=rsts["rst_inside"] + rsts["rst_outside"],
            descriptors=(after[0] - before[0], after[1] - before[1]),
        )


def attempt(name: str, variant: Variant) -> Outcome | str:
    """``measure``; a text says why it could not be done."""
    try:
        return replace(measure(BY_NAME[name], variant), scenario=replace(BY_NAME[name], fault=_nothing))
    except (AssertionError, CommandFailed) as error:
        return str(error)


def _nothing(_: Field) -> AbstractContextManager[None]:
    """In place of a fault, so that an outcome can be sent to another process."""
    return nullcontext()


def _pass(seconds: float) -> None:
    """Let the load run."""
    threading.Event().wait(max(seconds, 0.0))


def _way(direction: Direction, began: float, ended: float, end: float) -> Way:
    windows = direction.between(began - WINDOW, end)
    settled = direction.between(end - SETTLED, end)
    sent = sum(window.sent for _, window in windows)
    lost = sent - sum(window.arrived for _, window in windows)
    last = sum(window.sent for _, window in settled)
    end_loss = 1 - sum(window.arrived for _, window in settled) / last if last else 1.0
    delays = delays_of(direction, began, max(ended, began + 1))
    delay = delays[len(delays) * 99 // 100] if delays else 0.0
    # Later than the window in which the fault ends: the harness takes time, too.
    after = out(direction.between(ended + WINDOW, end))
    return Way(lost, sent, out(windows), after, end_loss, delay)


def _descriptors(site: Field) -> tuple[int, int]:
    roles: tuple[Role, Role] = ("client", "server")
    client, server = (sum(1 for _ in Path(f"/proc/{site.pid(role)}/fd").iterdir()) for role in roles)
    return client, server


class Watcher:
    """Asks the client's ``status`` five times a second, and keeps each new text and the number of flows."""

    def __init__(self, site: Field) -> None:
        self.said: list[str] = []
        self._flows: list[tuple[float, int]] = []
        self._site = site
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def least(self) -> int:
        """The fewest flows that there were."""
        return min((flows for _, flows in self._flows), default=0)

    def complete_after(self, since: float, wanted: int) -> float | None:
        """Seconds from ``since`` on after which there always were ``wanted`` flows; None = not at the end."""
        late = [when for when, flows in self._flows if flows < wanted]
        if not self._flows or (late and late[-1] == self._flows[-1][0]):
            return None
        return max(late[-1] - since, 0.0) if late else 0.0

    def _watch(self) -> None:
        run_directory = Path(self._site.tunnel.environment("client")["RSOCK_NF_RUN_DIR"])
        while not self._ended.wait(0.2):
            now = time.monotonic()
            if not list(run_directory.glob("*/control")):
                self._flows.append((now, 0))
                self._add("no client is running")
                continue
            try:
                status = self._site.tunnel.status("client")
            except (OSError, RuntimeError, ValueError):
                continue
            self._flows.append((now, carrying(status)))
            sessions = [note for session in status.get("sessions", []) for note in session.get("notes", [])]
            for text in [status.get("reason") or "", *status.get("notes", []), *sessions]:
                self._add(text)

    def _add(self, text: str) -> None:
        if text and text not in self.said:
            self.said.append(text)
