"""Everything that is looked at, in the order in which ``up`` would stumble over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from rsock_nf.core.parameters import ClientParameters
from rsock_nf.link.checks import Finding, Verdict
from rsock_nf.ops.doctor import ends, host, peer, ports, running, ways
from rsock_nf.settings import Settings


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found."""

    findings: list[Finding]
    snapshot: dict[str, Any]
    """Of the tunnel that asked the server; empty = none did."""

    @property
    def well(self) -> bool:
        """Nothing is in the way."""
        return not any(finding.verdict is Verdict.FAIL for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "well": self.well,
            "findings": [
                {
                    "verdict": finding.verdict.value.lower(),
                    "subject": finding.subject,
                    "text": finding.text,
                    "remedy": finding.remedy,
                }
                for finding in self.findings
            ],
            "dialled": self.snapshot.get("dialled", []),
            "sessions": self.snapshot.get("sessions", []),
        }


def examine(
    settings: Settings | None,
    unresolved: str = "",
    *,
    ask_server: bool = True,
    tell: Callable[[Finding], None] = lambda _: None,
) -> Examination:
    """Without settings, what every instance needs.  ``ask_server``: of a client, dial it, which takes seconds.

    ``unresolved``: why there are no settings: a name in the file cannot be looked up now.
    ``tell`` gets each finding as soon as it is known.
    """
    findings: list[Finding] = []
    seen: list[dict[str, Any]] = []
    first = [Finding(Verdict.FAIL, "names", unresolved, "connect the network, or see /etc/resolv.conf")]
    for finding in chain(first if unresolved else [], _found(settings, findings, seen, ask_server=ask_server)):
        findings.append(finding)
        tell(finding)
    return Examination(findings, seen[0] if seen else {})


def _found(
    settings: Settings | None, before: Sequence[Finding], seen: list[dict[str, Any]], *, ask_server: bool
) -> Iterator[Finding]:
    """``before``: what was found so far.  ``seen`` gets the snapshot of the tunnel that asked the server."""
    yield from host.examine(settings)
    if settings:
        yield from ports.examine(settings)
        yield from ends.examine(settings)
        yield from ways.onward(settings)
    yield from running.said(settings)
    yield from running.leftovers()
    if settings is None or not ask_server or not isinstance(settings.tunnel, ClientParameters):
        return
    if any(finding.verdict is Verdict.FAIL and finding.subject in _NEEDED for finding in before):
        yield Finding(Verdict.WARN, "server", "it was not asked: this host cannot dial, see above")
        return
    look = peer.look(settings)
    if look is not None:
        seen.append(look.snapshot)
        yield from peer.examine(settings, look)


_NEEDED = ("privileges", "packet socket", "firewall", "device", "server", "route", "pump")
"""Without these no flow over fake TCP begins."""
