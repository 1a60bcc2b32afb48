"""A long run with a random fault every 20 seconds."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rsock_nf.lab.tunnel import Role
from rsock_nf.runtime.host.source_ports import PORT_LINGER
from tests.faults.field import AES, Field, Variant
from tests.faults.field import field as made_field
from tests.faults.scenarios import BY_NAME

EVERY = 20.0
"""Seconds from one fault to the next."""
LASTS = 5.0
"""Seconds of each fault, at most."""
KINDS = (
    "loss_20", "outage_3s", "duplicate_20", "corrupt_2", "reorder_30", "delay_1000", "jitter", "bad_all", "rate_small",
    "mtu_icmp", "mtu_black_hole", "port_dead", "ports_dead_5", "resets_2s", "nat_flush", "router_reboot",
    "link_down_2s", "address_gone", "link_down_server", "server_killed", "client_killed", "server_restart",
    "server_stopped", "client_stopped", "reconnect", "nft_flush_client", "nft_flush_server", "docker_rules",
)  # fmt: skip
"""Faults that leave the hosts as they were."""


@dataclass(slots=True)
class Soaked:
    """What a long run found."""

    variant: Variant
    seconds: float
    faults: Counter[str]
    sent: int
    lost: int
    misdelivered: int
    corrupted: int
    doubled: int
    flows: int
    descriptors: tuple[str, ...]
    """Of client and server: "before → after"."""
    resident: tuple[str, ...]
    """The same for resident memory, in MB."""

    def offences(self) -> list[str]:
        """What must never be."""
        wrong = [f"{self.misdelivered} datagrams for another conversation"] if self.misdelivered else []
        if self.variant.cipher == AES and self.corrupted + self.doubled:
            wrong.append(f"{self.corrupted} corrupted and {self.doubled} doubled datagrams")
        if self.flows < self.variant.flows:
            wrong.append(f"{self.flows} of {self.variant.flows} flows at the end")
        return wrong


def soak(variant: Variant, seconds: float, tell: Callable[[str], None], seed: int = 1) -> Soaked:
    """Run it.  ``tell``: is told each fault as it begins."""
    chance = random.Random(seed)
    done: Counter[str] = Counter()
    with made_field(variant, sizes=(200, 1400)) as site:
        site.all_flows()
        before = _sizes(site)
        end = time.monotonic() + seconds
        while (now := time.monotonic()) + EVERY <= end:
            scenario = BY_NAME[chance.choice(KINDS)]
            tell(scenario.name)
            done[scenario.name] += 1
            with scenario.fault(site):
                threading.Event().wait(min(scenario.seconds, LASTS))
            threading.Event().wait(max(now + EVERY - time.monotonic(), 0.0))
        site.all_flows(60)
        threading.Event().wait(PORT_LINGER + LASTS)  # no port is held any more whose flow has ended
        after = _sizes(site)
        up, down = site.load.directions()
        return Soaked(
            variant=variant,
            seconds=seconds,
            faults=done,
            sent=up.sent + down.sent,
            lost=up.sent + down.sent - up.arrived - down.arrived,
            misdelivered=up.misdelivered + down.misdelivered,
            corrupted=up.corrupted + down.corrupted,
            doubled=up.doubled + down.doubled,
            flows=site.flows(),
            descriptors=tuple(f"{old[0]} → {new[0]}" for old, new in zip(before, after, strict=True)),
            resident=tuple(f"{old[1]:.0f} → {new[1]:.0f}" for old, new in zip(before, after, strict=True)),
        )


def _sizes(site: Field) -> list[tuple[int, float]]:
    """Open descriptors and resident MB, of client and server."""
    roles: tuple[Role, Role] = ("client", "server")
    found = []
    for role in roles:
        process = Path(f"/proc/{site.pid(role)}")
        pages = int((process / "statm").read_text().split()[1])
        found.append((sum(1 for _ in (process / "fd").iterdir()), pages * 4096 / 1e6))
    return found
