"""The selector of the event loop: it waits in C, and C serves what is hot meanwhile.

Everything that asyncio registers is *cold*: it is in an ordinary ``EpollSelector``, whose one descriptor C watches.
When C left something to Python, ``select`` says that ``bell`` is readable: so the driver is called as for any other
descriptor, inside the event loop.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from rsock_nf.native.library import Library

_Ready = list[tuple[selectors.SelectorKey, int]]


def eventfd() -> int:
    """A descriptor that is never readable by itself (eventfd(2))."""
    flags = os.EFD_CLOEXEC | os.EFD_NONBLOCK  # type: ignore[attr-defined, unused-ignore]
    return int(os.eventfd(0, flags))  # type: ignore[attr-defined, unused-ignore]


class HotSelector(selectors.BaseSelector):
    """See the module.  Raises ``OSError`` when there are no descriptors or no memory."""

    def __init__(self, library: Library) -> None:
        self.library = library
        cold: Any = selectors.EpollSelector()  # type: ignore[attr-defined, unused-ignore]
        self._cold: selectors.BaseSelector = cold
        self.bell = eventfd()
        self.engine: Any = library.lib.hot_new(cold.fileno(), int.from_bytes(os.urandom(8), "big"))
        if self.engine == library.ffi.NULL:
            cold.close()
            os.close(self.bell)
            raise OSError("the native data path cannot be set up: no descriptor or no memory is left")
        self.before_wait: Callable[[], None] = lambda: None
        """Called before each wait, to bring C up to date."""
        self._wait = library.lib.hot_wait
        self._COLD, self._LEFT = library.lib.HOT_COLD, library.lib.HOT_LEFT

    def select(self, timeout: float | None = None) -> _Ready:
        """See ``selectors``."""
        self.before_wait()
        told = self._wait(self.engine, -1 if timeout is None else max(int(timeout * 1e9), 0))
        ready: _Ready = self._cold.select(0) if told & self._COLD else []
        if told & self._LEFT:
            ready.append((self._cold.get_key(self.bell), selectors.EVENT_READ))
        return ready

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """See ``selectors``."""
        return self._cold.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """See ``selectors``."""
        return self._cold.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """See ``selectors``."""
        return self._cold.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """See ``selectors``."""
        return self._cold.get_map()

    def close(self) -> None:
        """See ``selectors``.  Idempotent."""
        if self.engine is not None:
            self.library.lib.hot_free(self.engine)
            self.engine = None
            os.close(self.bell)
        self._cold.close()


_SELECTORS: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, HotSelector] = weakref.WeakKeyDictionary()


def new_event_loop(library: Library) -> asyncio.AbstractEventLoop:
    """An event loop that waits in C."""
    selector = HotSelector(library)
    loop = asyncio.SelectorEventLoop(selector)
    _SELECTORS[loop] = selector
    return loop


def selector_of(loop: asyncio.AbstractEventLoop) -> HotSelector | None:
    """The selector of a loop that ``new_event_loop`` made; None = it is another one's."""
    return _SELECTORS.get(loop)
