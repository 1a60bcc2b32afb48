"""The compiled code of the native data path, if it is there.

It is taken from its place in the package only.  No environment variable names another file: the process may be root's,
with the environment of a user.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any, NamedTuple

from rsock_nf.native.sources import fingerprint

MODULE = "rsock_nf.native._hot"
NOT_BUILT = "not built: install gcc python3-dev libssl-dev, then rsock-nf"
LINUX_ONLY = "the native data path is for Linux"
OTHER_SOURCES = "made of other C files: run python -m rsock_nf.native.build"


class Library(NamedTuple):
    """The compiled module."""

    ffi: Any
    lib: Any

    @property
    def has_ciphers(self) -> bool:
        """It was built with OpenSSL's libcrypto."""
        return bool(self.lib.hot_has_crypto())


@functools.cache
def load() -> Library | str:
    """The library, or why there is none: one line."""
    try:
        hot = importlib.import_module(MODULE)
    except ModuleNotFoundError as error:
        return NOT_BUILT if error.name == MODULE else f"it cannot be loaded: {error}"
    except ImportError as error:
        return f"it cannot be loaded: {' '.join(str(error).split())}"
    sources = fingerprint()
    if sources and sources != _fingerprint_of(hot):
        return OTHER_SOURCES
    return Library(hot.ffi, hot.lib)


def _fingerprint_of(module: Any) -> str:
    try:
        return bytes(module.ffi.string(module.lib.hot_sources())).decode()
    except AttributeError:  # before modules had one
        return ""
