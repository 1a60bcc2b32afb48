"""What an endpoint has to do, taken and told apart."""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeVar

from rsock_nf.core.events import Event
from rsock_nf.core.outbox import Deliver, Output, Transmit
from rsock_nf.core.types import Outgoing, Run

T = TypeVar("T")


class Polled(Protocol):
    def poll(self) -> list[Output]: ...


class Outputs(NamedTuple):
    bursts: list[Outgoing]
    runs: list[Run]
    events: list[Event]


def outputs(endpoint: Polled) -> Outputs:
    """Everything that ``endpoint`` has to do now, by kind, each in order."""
    found = Outputs([], [], [])
    for output in endpoint.poll():
        if isinstance(output, Transmit):
            found.bursts.extend(output.bursts)
        elif isinstance(output, Deliver):
            found.runs.extend(output.runs)
        else:
            found.events.append(output)
    return found


class Mailbox:
    """The same for who asks for one kind at a time: the others wait here."""

    def __init__(self, endpoint: Polled) -> None:
        self._endpoint = endpoint
        self._kept = Outputs([], [], [])

    def bursts(self) -> list[Outgoing]:
        return self._take(self._collected().bursts)

    def runs(self) -> list[Run]:
        return self._take(self._collected().runs)

    def events(self) -> list[Event]:
        return self._take(self._collected().events)

    def _collected(self) -> Outputs:
        new = outputs(self._endpoint)
        self._kept.bursts.extend(new.bursts)
        self._kept.runs.extend(new.runs)
        self._kept.events.extend(new.events)
        return self._kept

    @staticmethod
    def _take(kept: list[T]) -> list[T]:
        taken = list(kept)
        kept.clear()
        return taken
