"""Why a client carries no traffic, as text for people: ``status`` and ``up`` show it."""

from __future__ import annotations

from rsock_nf.core.ends.slots import MAX_BACKOFF, Slots
from rsock_nf.core.pump.state import FlowGroup


class Reasons:
    """See the module.  While some flow carries traffic, the trouble of other flows is not told."""

    def __init__(self, slots: Slots, group: FlowGroup) -> None:
        self._slots = slots
        self._group = group
        self._text = "not started"
        self._lasting = ""
        """What is wrong although flows come up: the server refuses conversations, or answers no frame."""
        self._hopeless = ""
        """The text that ``give_no_hope`` was said of."""
        self._turned_away = ""
        """The text that ``turned_away_by`` was given."""
        self._refused_address = ""
        self._refused_until = 0.0
        """Until then a refusal says more than the silence of other ports: hosts limit the rate of ICMP errors."""

    @property
    def text(self) -> str:
        """The reason.  Empty = traffic is carried."""
        return self._text

    @property
    def hopeless(self) -> bool:
        """The reason will not go away by itself: somebody has to change one of the two sides."""
        return bool(self._text) and self._text == self._hopeless

    @property
    def turned_away(self) -> bool:
        """The server has answered that it does not serve us, at least for now: this is the reason."""
        return bool(self._text) and self._text == self._turned_away

    def turned_away_by(self, text: str) -> None:
        """The server has answered that it does not serve us: ``text`` says why."""
        self._text = self._turned_away = text

    def give_no_hope(self) -> None:
        """The reason that is told now will not go away by itself."""
        self._hopeless = self._text

    @property
    def nothing_heard(self) -> str:
        """The reason until something is heard."""
        return f"dialling {self._slots.remote_text}, no answer yet"

    def dialling(self) -> None:
        """The client begins to dial."""
        if not self._group.usable:
            self._text = self.nothing_heard

    def tell(self, text: str) -> None:
        """The reason is ``text`` from now on."""
        self._text = text

    def refused(self, now: float, what: str) -> None:
        """The server refuses ``what``.  One kind of flow may be refused although the other one is served."""
        if not self._group.usable:
            self._text = f"{self._slots.remote_text} refuses {what}"
            self._refused_address, self._refused_until = self._slots.remote_text, now + MAX_BACKOFF

    def silent_port(self, port: int) -> None:
        """No SYN-ACK came from ``port``."""
        if not self._group.usable:
            self._text = f"no answer from {self._slots.remote_text} on port {port}"

    def lately_refused(self, now: float) -> bool:
        """Whether the address in use has refused a flow a short time ago.  That says more than silence."""
        return now < self._refused_until and self._refused_address == self._slots.remote_text

    def flow_up(self) -> None:
        """A flow carries traffic."""
        self._text = self._lasting
        self._refused_until = 0.0

    def flows_down(self, reason: str) -> None:
        """The last flow ended, because of ``reason``."""
        if not self._text:
            self._text = f"every flow is down, the last because {reason}"

    def session_lost(self, reason: str) -> None:
        """The session ended, because of ``reason``."""
        self._text, self._lasting = reason, ""

    def set_lasting(self, lasting: str) -> None:
        """Set what is wrong although flows are up.  Empty = nothing."""
        told, self._lasting = self._lasting, lasting
        if lasting or self._text == told:
            self._text = lasting
