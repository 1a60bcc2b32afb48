"""A running instance at one moment, as plain values: all that ``snapshot`` and ``journal`` see of it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rsock_firewall import Counters
from rsock_nf.core.ends.crowding import Crowd
from rsock_nf.core.ends.port_reports import PortReport
from rsock_nf.core.ends.top_sources import TopSources
from rsock_nf.core.flows.session import Session
from rsock_nf.core.parameters import Kinds
from rsock_nf.runtime.host.refusals import Target
from rsock_nf.settings import Settings
from rsock_nf.sockets.datagrams import DatagramCounters


def _unnamed(_: Session, peer: Hashable) -> str:
    return str(peer)


@dataclass(frozen=True, slots=True)
class View:
    """What it carries, and why not more.  The defaults are those of an instance that has just been started."""

    settings: Settings
    state: str = "starting"
    """``starting``, a server's ``serving``, or a client's ``idle``, ``connecting`` or ``connected``."""
    reason: str = ""
    """What is wrong, with its remedy: nothing is carried, or a part is lost; empty = nothing."""
    hopeless: bool = False
    """Client: the reason will not go away by itself."""
    turned_away: bool = False
    """Client: the reason is what the server has said, who does not serve us."""
    notes: Sequence[str] = ()
    """What is unusual, though traffic is carried."""
    detoured: bool = False
    """Client: a VPN has the route to the server, and another device is used."""
    looped: int = 0
    """Client: datagrams from applications that were packets of this tunnel itself, and were dropped."""
    remote: str = ""
    """Client: the server's address in use."""
    sessions: Sequence[Session] = ()
    describe: Callable[[Session, Hashable], str] = _unnamed
    """Our end of a conversation, for people: from its session and its peer."""
    counters: Mapping[str, int] = field(default_factory=dict)
    """The endpoint's, of what it dropped or ignored."""
    targets: Sequence[Target] = ()
    """Server: the targets that have refused datagrams, and whether they still do."""
    strangers: TopSources = field(default_factory=TopSources)
    """Server: who sends what does not authenticate."""
    troubles: Mapping[str, int] = field(default_factory=dict)
    """What failed, and how often."""
    versions: frozenset[int] = frozenset({4})
    """The IP versions by which flows may travel."""
    dialled: Sequence[PortReport] = ()
    """Client: what became of the dials of each server port."""
    crowds: Sequence[Crowd] = ()
    """Server, for each wire: conversations that make room for others."""

    def missing_kinds(self) -> list[bool]:
        """Of a client with ``type: all``: the kinds (is it UDP?) of which it has no flow, while it has one of the other
        kind.
        """
        if self.state != "connected" or self.settings.tunnel.kinds is not Kinds.ALL:
            return []
        there = {flow.key.udp for session in self.sessions for flow in session.flows.values()}
        return [udp for udp in (False, True) if udp not in there]


@dataclass(frozen=True, slots=True)
class HostView:
    """What it holds of its host."""

    device: str = ""
    device_up: bool = False
    mtu: int | None = None
    link_counters: Mapping[str, Any] = field(default_factory=dict)
    carriers: Mapping[str, int] = field(default_factory=dict)
    """Of the UDP sockets on which flows travel; empty without any."""
    backend: str = ""
    """Of the firewall; empty without rules."""
    dropped: Counters | None = None
    """By the rules; None = there are none, or they cannot be asked now."""
    repairs: int = 0
    held_ports: Sequence[int] = ()
    """The local ports that the rules cover beyond the configuration's."""
    sockets: Sequence[DatagramCounters] = ()
    """Toward applications or targets: those that are open, and the sum of those that were."""
    backlog_dropped: int = 0
