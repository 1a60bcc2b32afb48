"""Which data path an instance takes: the native one where it can, else Python's.

``event_loop`` makes the loop, before there is a tunnel; ``hot_path`` gives the tunnel its part of it.
"""

from __future__ import annotations

import asyncio

from rsock_nf.core.parameters import Cipher
from rsock_nf.errors import TunnelError
from rsock_nf.link import system
from rsock_nf.native.library import LINUX_ONLY, Library, load
from rsock_nf.native.path import HotPath
from rsock_nf.native.selector import new_event_loop, selector_of
from rsock_nf.settings import Settings
from rsock_nf.wire.parameters import RsockParameters


def why_python(settings: Settings) -> str:
    """Why the data path is Python's; "" = it is native."""
    if settings.pump == "python":
        return '"pump" is "python"'
    if isinstance(settings.wire, RsockParameters) or settings.second is not None:
        return "wire rsock has no native data path"
    library = load() if system().has_native_path else LINUX_ONLY
    if isinstance(library, str):
        return library
    if settings.tunnel.cipher is not Cipher.NONE and not library.has_ciphers:
        return "built without OpenSSL: install libssl-dev, then rsock-nf"
    return ""


def event_loop(settings: Settings) -> asyncio.AbstractEventLoop:
    """The loop of an instance with these settings.

    Raises ``TunnelError`` if the native data path was asked for and there is none.
    """
    why = why_python(settings)
    if why and settings.pump == "native":
        raise TunnelError(f'pump: there is no native data path: {why}; "auto" takes Python\'s')
    if why:
        return asyncio.SelectorEventLoop()
    library = load()
    try:
        return new_event_loop(library) if isinstance(library, Library) else asyncio.SelectorEventLoop()
    except OSError as error:
        if settings.pump == "native":
            raise TunnelError(f"pump: {error}") from None
        return asyncio.SelectorEventLoop()


def hot_path(loop: asyncio.AbstractEventLoop, settings: Settings) -> HotPath | None:
    """The native data path of a tunnel on this loop; None = it has Python's."""
    selector = selector_of(loop)
    return HotPath(selector, settings.tunnel.spread) if selector is not None else None
