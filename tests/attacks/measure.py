"""One attack on one tunnel: what the honest client lost, and what the server paid."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from rsock_nf.lab.netns import CommandFailed
from tests.attacks.attack import Attack
from tests.attacks.ground import Done, Ground, ground
from tests.faults.field import AES, Variant
from tests.faults.load import Direction

BEFORE = 2.0
"""Seconds of undisturbed load before the attack."""
SETTLED = 2.0
"""Seconds at the end of a run in which everything should be as before."""
SHORTEST = 2.0
"""Seconds that an attack counts for at least: the clock of a process ticks 100 times a second."""
GRACE = 0.5
"""Seconds before the end of a run whose datagrams may be still on their way."""
RECOVERED = 0.03
"""At most this share may be lost at the end."""


@dataclass(slots=True)
class Outcome:
    """What one run found."""

    variant: Variant
    done: Done
    seconds: float
    lost: int
    sent: int
    """Datagrams of the honest client, both ways, from the attack to the end."""
    end_loss: float
    misdelivered: int
    corrupted: int
    """At the target or the application, and not as any of the two had sent them: forged ones, too."""
    doubled: int
    flows_lost: int
    flows: int
    """Of the client, at the end."""
    cpu: tuple[float, float]
    """Share of a core that the server took, before the attack and during it."""
    resident: float
    """MB by which the server grew."""
    segments: tuple[int, int]
    """The smallest payload that a flow of the server carries, before and after, in bytes."""
    resets: int
    """RSTs that left client or server."""
    same_server: bool

    def faults(self, attack: Attack) -> list[str]:
        """What is not as it should be, on an idle machine."""
        wrong = self.offences(attack)
        if self.flows_lost > attack.flows and not attack.renews:
            wrong.append(f"{self.flows_lost} flows lost, at most {attack.flows} expected")
        return wrong

    def offences(self, attack: Attack) -> list[str]:
        """What must never be, however busy the machine."""
        wrong = list(self.done.wrong)
        if self.misdelivered:
            wrong.append(f"{self.misdelivered} datagrams for another conversation")
        if (self.variant.cipher == AES or not attack.twice) and self.corrupted + self.doubled:
            wrong.append(f"{self.corrupted} forged datagrams, {self.doubled} twice")
        if self.flows < self.variant.flows or self.end_loss >= RECOVERED:
            wrong.append(f"not recovered: {self.flows} of {self.variant.flows} flows, {self.end_loss:.0%} lost")
        if self.segments[1] < self.segments[0]:
            wrong.append(f"segments shrank from {self.segments[0]} to {self.segments[1]} bytes")
        # On the original's wire a client gives up a flow by RST whose numbers do not fit, and dials it again.
        if self.resets > (self.flows_lost if self.variant.wire == "rsock" else 0):
            wrong.append(f"{self.resets} RSTs left our hosts")
        if not self.same_server:
            wrong.append("the server's process has ended")
        return wrong


def measure(attack: Attack, variant: Variant, *, after: float | None = None) -> Outcome:
    """Run it once."""
    with ground(variant, direct=not attack.behind) as site:
        _pass(0.5)
        pids, flows, segment = _pids(site), site.flows("client"), _segment(site)
        quiet = _cpu(site)
        _pass(BEFORE)
        idle = (_cpu(site) - quiet) / BEFORE
        spent, resident, done = _cpu(site), _resident(site), Done()
        began = time.monotonic()
        attack.act(site, done)
        _pass(max(began + SHORTEST - time.monotonic(), 0.0))
        ended = time.monotonic()
        busy = (_cpu(site) - spent) / (ended - began)
        grown = _resident(site) - resident
        _pass(attack.after if after is None else after)
        end = time.monotonic() - GRACE
        left = site.flows("client")
        counters = site.site.lab.counters()
        both = site.site.load.directions()
        sent, lost = (sum(found) for found in zip(*(_lost(way, began, end) for way in both), strict=True))
        last, late = (sum(found) for found in zip(*(_lost(way, end - SETTLED, end) for way in both), strict=True))
        return Outcome(
            variant=variant,
            done=done,
            seconds=ended - began,
            lost=lost,
            sent=sent,
            end_loss=late / last if last else 1.0,
            misdelivered=sum(way.misdelivered for way in both),
            corrupted=sum(way.corrupted for way in both),
            doubled=sum(way.doubled for way in both),
            flows_lost=len(flows - left),
            flows=len(left),
            cpu=(idle, busy),
            resident=grown,
            segments=(segment, _segment(site)),
            resets=counters["rst_inside"] + counters["rst_outside"],
            same_server=pids == _pids(site),
        )


def _lost(way: Direction, began: float, end: float) -> tuple[int, int]:
    """(Sent, lost) of what was sent between two times."""
    windows = [window for _, window in way.between(began, end)]
    sent = sum(window.sent for window in windows)
    return sent, sent - sum(window.arrived for window in windows)


def _pids(site: Ground) -> list[int]:
    return site.site.tunnel.pids("server")


def _cpu(site: Ground) -> float:
    """Seconds of a core that the server has taken so far (proc(5))."""
    stat = Path(f"/proc/{site.site.pid('server')}/stat").read_text().rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


def _resident(site: Ground) -> float:
    pages = int(Path(f"/proc/{site.site.pid('server')}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _segment(site: Ground) -> int:
    return min((flow["max_payload"] for flow in site.described("server")), default=0)


def attempt(attack: Attack, variant: Variant) -> Outcome | str:
    """``measure``; a text says why it could not be done."""
    try:
        return measure(attack, variant)
    except (AssertionError, CommandFailed) as error:
        return str(error)


def _pass(seconds: float) -> None:
    """Let the load run."""
    threading.Event().wait(seconds)
