"""What a running instance logs of itself once a second, beside the events that are logged as they come.

At the usual levels, each seldom: what is wrong, and that something is carried again; a kind of flow that is blocked; a
client that idles; targets that refuse; conversations that make room for others; datagrams that do not fit; a path that
takes less than it should; strangers;
other failures.  At ``debug`` also what has changed since the last look: conversations, the application's MTU, counters.
Never a secret, a key or payload.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from ipaddress import ip_address

from rsock_nf.core.parameters import Kinds
from rsock_nf.policy import carrier_ports
from rsock_nf.runtime.reports.view import View
from rsock_nf.words import (
    NOBODY_LISTENS,
    STRANGERS,
    missing_kind,
    narrow_path,
    vpn_numbers,
    what_happens,
    who_strangers_are,
)

REMINDER = 60.0
"""Seconds from one line about a target that refuses, about strangers, or about one trouble, to the next."""
MISSED = 5.0
"""Seconds without a flow of one kind, while the other carries, before that is said."""
LONGEST_PAUSE = 300.0
"""The longest pause, in seconds, between two lines about why nothing is carried.

The first pauses are 0, 1 and 2 s: the first reasons say least."""


_SOURCES = 3
"""Addresses of strangers in one line."""


class Journal:
    """See the module.  One for each instance, which calls ``tick``."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._reason = ""
        self._reason_due = 0.0
        self._pause = 0.0
        self._state = ""
        self._broken: set[int] = set()
        """Sessions that stood without a flow at the last look."""
        self._missing_since: dict[bool, float] = {}
        """``type: all``: the kind (is it UDP?) that has no flow, and since when; infinity once it was told."""
        self._told: dict[str, tuple[int, float]] = {}
        """Subject: its count when it was last told, and when that was."""
        self._refusing: set[str] = set()
        """Targets of which it was told that nobody listens there, and not yet that this is over."""
        self._oversized: set[int] = set()
        """Sessions with datagrams that do not fit one frame, of which it was told."""
        self._narrow: dict[int, tuple[int, int]] = {}
        """Sessions whose path takes less than it should, and what was last told of that."""
        self._conversations: dict[tuple[int, int], str] = {}
        self._mtus: dict[int, int | None] = {}
        self._counters = Counter[str]()

    def tick(self, view: View, now: float) -> None:
        """Look, and log what is new."""
        self._note_reason(view.reason, now)
        self._note_state(view)
        self._note_kinds(view, now)
        self._note_targets(view, now)
        for trouble, count in view.troubles.items():
            if self._is_due(trouble, count, now):
                self._log.error("%s (times so far: %d)", trouble, count)
        self._note_crowds(view, now)
        self._note_oversized(view)
        self._note_paths(view)
        strangers = view.counters.get(STRANGERS, 0)
        if self._is_due(STRANGERS, strangers, now):
            who = who_strangers_are(over_udp=bool(carrier_ports(view.settings)))
            most = ", ".join(f"{ip_address(address)} ({count})" for address, count in view.strangers.top()[:_SOURCES])
            told = f"{who}; most from {most}" if most else who
            self._log.info("strangers: %d payloads so far that do not authenticate (%s)", strangers, told)
        if self._log.isEnabledFor(logging.DEBUG):
            self._trace(view)

    def _note_reason(self, reason: str, now: float) -> None:
        """Each time it changes; but flows fail one by one, each with a reason of its own, so ever more rarely."""
        if not reason:
            self._reason, self._reason_due, self._pause = "", 0.0, 0.0
        elif reason != self._reason and now >= self._reason_due:
            self._log.warning("%s", reason)
            self._reason, self._reason_due = reason, now + self._pause
            self._pause = min(max(2 * self._pause, 1.0), LONGEST_PAUSE)

    def _note_state(self, view: View) -> None:
        """Of a client: that it goes to sleep, and that a session which had no flow left has some again."""
        now = view.state
        if now == "idle" != self._state:
            self._log.info("idle: no flows until the next datagram")
        for session in view.sessions if now == "connected" else ():
            if session.session_id in self._broken:
                self._log.info("session %016x carries again, flows: %d", session.session_id, len(session.flows))
        self._broken = {session.session_id for session in view.sessions} if now == "connecting" else set()
        self._state = now

    def _note_kinds(self, view: View, now: float) -> None:
        """Of a client with ``type: all``: one kind is blocked, and the other stands in for it."""
        if view.settings.tunnel.kinds is not Kinds.ALL:
            return
        if self._state != "connected":
            self._missing_since = {udp: since for udp, since in self._missing_since.items() if since == math.inf}
            return
        missing = view.missing_kinds()
        for udp, kind in ((True, "UDP"), (False, "TCP")):
            if udp not in missing:
                if self._missing_since.pop(udp, 0.0) == math.inf:
                    self._log.info("flows over %s are back", kind)
            elif now - self._missing_since.setdefault(udp, now) >= MISSED:
                self._missing_since[udp] = math.inf
                self._log.warning("%s", missing_kind(udp=udp))

    def _note_targets(self, view: View, now: float) -> None:
        """Of a server: a target refuses, and later that this is over."""
        for target in view.targets:
            if target.refuses and self._is_due(target.address, target.refused, now):
                self._refusing.add(target.address)
                self._log.warning("target %s: %s (refused so far: %d)", target.address, NOBODY_LISTENS, target.refused)
            elif not target.refuses and target.address in self._refusing:
                self._refusing.remove(target.address)
                self._log.info("target %s answers again (refused before: %d)", target.address, target.refused)
        self._refusing.intersection_update(target.address for target in view.targets)

    def _note_crowds(self, view: View, now: float) -> None:
        """Of a server: conversations make room for others."""
        for number, crowd in enumerate(view.crowds):
            if crowd.reason and self._is_due(f"conversations {number}", crowd.made_room, now):
                who = f"so far: {crowd.made_room}, the last of {crowd.peer}"
                self._log.warning("%s (%s)", crowd.reason, who)

    def _note_oversized(self, view: View) -> None:
        """The first datagram of a session that does not fit one frame.  A client has one group for all its sessions."""
        for session in view.sessions:
            whose = session.session_id if view.state == "serving" else 0
            if not session.group.oversized or whose in self._oversized:
                continue
            largest = session.largest_datagram()
            if largest is None:
                continue
            self._oversized.add(whose)
            self._log.warning(
                "session %016x: datagrams of %d bytes do not fit one segment and are %s: set %s; "
                "others: at most %d bytes",
                session.session_id,
                session.group.largest_oversized,
                what_happens(fragments=session.limits.fragments),
                vpn_numbers(largest),
                largest,
            )

    def _note_paths(self, view: View) -> None:
        """The path of a session became smaller, or takes everything again."""
        for session in view.sessions:
            told, narrowest = self._narrow.get(session.session_id), session.narrowest()
            largest = session.largest_datagram()
            if narrowest == told or largest is None:
                continue
            whose = f"session {session.session_id:016x} with {session.peer or view.remote}"
            if narrowest is None:
                del self._narrow[session.session_id]
                self._log.info("%s: the path out carries whole segments again", whose)
                continue
            self._narrow[session.session_id] = narrowest
            set_this = f"set {vpn_numbers(largest)}; others: at most {largest} bytes"
            self._log.warning("%s: %s: %s", whose, narrow_path(*narrowest), set_this)
        alive = {session.session_id for session in view.sessions}
        self._narrow = {number: told for number, told in self._narrow.items() if number in alive}

    def _is_due(self, subject: str, count: int, now: float) -> bool:
        """Whether to tell of it: at once when it begins, and every minute while it goes on."""
        told, when = self._told.get(subject, (0, now - REMINDER))
        due = count > told and now - when >= REMINDER
        if due:
            self._told[subject] = count, now
        return due

    def _trace(self, view: View) -> None:
        debug = self._log.debug
        conversations = {
            (session.session_id, conversation.number): view.describe(session, conversation.peer)
            for session in view.sessions
            for conversation in session.group.conversations.values()
        }
        for key in conversations.keys() - self._conversations.keys():
            debug("session %016x: conversation %d begins: %s", *key, conversations[key])
        for key in self._conversations.keys() - conversations.keys():
            debug("session %016x: conversation %d has ended: %s", *key, self._conversations[key])
        self._conversations = conversations
        mtus = {session.session_id: session.largest_datagram() for session in view.sessions}
        for session_id, mtu in mtus.items():
            if mtu is not None and mtu != self._mtus.get(session_id):
                debug("session %016x: MTU for the application is %d", session_id, mtu)
        self._mtus = mtus
        counters = Counter(view.counters)
        for name, count in (counters - self._counters).items():
            debug("counted %d more: %s", count, name)
        self._counters = counters
