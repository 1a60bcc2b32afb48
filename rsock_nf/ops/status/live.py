"""``status --watch`` on a terminal: the same lines every second, cut to its height, on its alternate screen.

Not here: what is shown (``render``).  Where standard output is no terminal, ``commands.status`` prints the lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.live import Live
from rich.style import Style
from rich.text import Text

from rsock_nf.ops.status.layout import Line, Span, line
from rsock_nf.ops.status.render import lines
from rsock_nf.ops.status.sessions import Snapshot

_STYLES: Final = {
    "": Style.null(),
    "bold": Style(bold=True),
    "dim": Style(dim=True),
    "good": Style(color="green"),
    "warn": Style(color="yellow"),
    "bad": Style(color="red"),
}


class Screen:
    """The alternate screen of a terminal, until the context ends."""

    def __init__(self) -> None:
        console = Console(highlight=False, markup=False, emoji=False)
        self._live = Live(console=console, screen=True, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, found: Sequence[Snapshot], before: dict[str, Snapshot], *, each_flow: bool) -> None:
        """Show these instances; ``before``: their snapshots of the last look, by name."""
        size = self._live.console.size
        fitted = fit(found, before, size.width, size.height, each_flow=each_flow)
        self._live.update(Text("\n").join(map(_text, fitted)), refresh=True)


def fit(
    found: Sequence[Snapshot], before: dict[str, Snapshot], width: int, height: int, *, each_flow: bool = False
) -> list[Line]:
    """At most ``height`` lines.  Left out are first the notes on sessions, then sessions of the instance that has most,
    then the last lines.
    """
    counts = {number: _count(snapshot.get("sessions")) for number, snapshot in enumerate(found)}
    shown = _joined(found, before, width, counts, each_flow=each_flow)
    if len(shown) <= height:
        return shown
    shown = _joined(found, before, width, counts, each_flow=each_flow, most_notes=0)
    while not each_flow and len(shown) > height and any(counts.values()):
        most = max(counts, key=lambda number: counts[number])
        counts[most] = max(0, counts[most] - max(1, (len(shown) - height) // len(counts)))
        shown = _joined(found, before, width, counts, each_flow=each_flow, most_notes=0)
    if len(shown) > height:
        shown = [*shown[: max(height - 1, 0)], line(f"… {len(shown) - height + 1} more lines", "dim")]
    return shown


def _joined(
    found: Sequence[Snapshot], before: dict[str, Snapshot], width: int, counts: dict[int, int], **how: Any
) -> list[Line]:
    joined: list[Line] = []
    for number, snapshot in enumerate(found):
        earlier = before.get(snapshot["name"])
        joined += [line("")] if joined else []
        joined += lines(snapshot, earlier, width=width, most=counts[number], **how)
    return joined


def _count(sessions: object) -> int:
    return len(sessions) if isinstance(sessions, list) else 0


def _text(spans: Line) -> Text:
    return Text.assemble(*(_styled(span) for span in spans), no_wrap=True, overflow="crop")


def _styled(span: Span) -> tuple[str, Style]:
    return span.text, _STYLES[span.style]
