"""The compiled code of the native data path, if it is there.

It is taken from its place in the package only.  No environment variable names another file: the process may be root's,
with the environment of a user.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from rsock_nf.native.sources import fingerprint

NOT_BUILT = "it was not built: install gcc, libc6-dev, python3-dev and libssl-dev, then install rsock-nf again"
OTHER_SOURCES = "it was built from other C files than those that are there: install rsock-nf again"


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
        from rsock_nf.native import _hot  # type: ignore[attr-defined]
    except ModuleNotFoundError:
        return NOT_BUILT
    except ImportError as error:
        if "cannot import name '_hot'" in str(error):
            return NOT_BUILT
        return f"it cannot be loaded: {' '.join(str(error).split())}"
    sources = fingerprint()
    if sources and sources != _fingerprint_of(_hot):
        return OTHER_SOURCES
    return Library(_hot.ffi, _hot.lib)


def _fingerprint_of(module: Any) -> str:
    try:
        return bytes(module.ffi.string(module.lib.hot_sources())).decode()
    except AttributeError:  # before modules had one
        return ""
