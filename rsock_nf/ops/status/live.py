"""``status --watch`` on a terminal: the same lines every second, cut to its height, on its alternate screen, until
somebody types ``q``.

Not here: what is shown (``render``).  Where standard output is no terminal, ``commands.status`` prints the lines.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.live import Live
from rich.style import Style
from rich.text import Text

from rsock_nf.ops.status.layout import Line, Span, line
from rsock_nf.ops.status.render import View, view
from rsock_nf.ops.status.sessions import Snapshot

_STYLES: Final = {
    "": Style.null(),
    "bold": Style(bold=True),
    "dim": Style(dim=True),
    "good": Style(color="green"),
    "warn": Style(color="yellow"),
    "bad": Style(color="red"),
}
_LEAVE: Final = frozenset(b"qQ")


class Screen:
    """The alternate screen of a terminal, and its keys, until the context ends."""

    def __init__(self) -> None:
        console = Console(highlight=False, markup=False, emoji=False)
        self._live = Live(console=console, screen=True, auto_refresh=False, transient=True)
        self._undo = contextlib.ExitStack()
        self._keys: int | None = None
        """The descriptor that keys are read from; None = there is none."""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            self._keys = undo.enter_context(_keys())
            undo.callback(self._live.stop)
            self._live.start()
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._undo.close()

    def left_within(self, seconds: float) -> bool:
        """Wait.  Whether somebody typed ``q`` meanwhile."""
        if self._keys is None:
            time.sleep(seconds)
            return False
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not select.select([self._keys], [], [], left)[0]:
                break
            typed = os.read(self._keys, 64)
            if not typed:  # the terminal is gone, as after SIGHUP
                self._keys = None
                return True
            if _LEAVE & set(typed):
                return True
        return False

    def show(self, found: Sequence[Snapshot], before: dict[str, Snapshot], *, each_flow: bool) -> None:
        """Show these instances; ``before``: their snapshots of the last look, by name."""
        size = self._live.console.size
        fitted = fit(found, before, size.width, size.height, each_flow=each_flow)
        self._live.update(Text("\n").join(map(_text, fitted)), refresh=True)


@contextlib.contextmanager
def _keys() -> Iterator[int | None]:
    """The descriptor of the terminal's keys, each of which comes at once and is not shown.  Ctrl-C stays a signal."""
    if not (sys.stdin and sys.stdin.isatty()):
        yield None
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor, termios.TCSADRAIN)
        yield descriptor
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def fit(
    found: Sequence[Snapshot], before: dict[str, Snapshot], width: int, height: int, *, each_flow: bool = False
) -> list[Line]:
    """At most ``height`` lines.  Left out are first the notes on sessions, then sessions of the instance that has most,
    then the last lines.
    """
    views = [view(one, before.get(one["name"]), width=width, each_flow=each_flow) for one in found]
    shown = _joined(one.lines() for one in views)
    if len(shown) <= height:
        return shown
    counts = _counts(views, height)
    shown = _joined(one.lines(count, 0) for one, count in zip(views, counts, strict=True))
    if len(shown) > height:
        shown = [*shown[: max(height - 1, 0)], line(f"… {len(shown) - height + 1} more lines", "dim")]
    return shown


def _counts(views: Sequence[View], height: int) -> list[int]:
    """How many sessions of each instance there is room for."""
    counts = [len(one.listed) for one in views]
    between = len(views) - 1
    while any(counts):
        whole = between + sum(one.height(count) for one, count in zip(views, counts, strict=True))
        if whole <= height:
            break
        most = counts.index(max(counts))
        counts[most] = max(0, counts[most] - max(1, (whole - height) // len(counts)))
    return counts


def _joined(blocks: Iterable[list[Line]]) -> list[Line]:
    """With an empty line between two of them."""
    joined: list[Line] = []
    for block in blocks:
        joined += [line(""), *block] if joined else block
    return joined


def _text(spans: Line) -> Text:
    return Text.assemble(*(_styled(span) for span in spans), no_wrap=True, overflow="crop")


def _styled(span: Span) -> tuple[str, Style]:
    return span.text, _STYLES[span.style]
