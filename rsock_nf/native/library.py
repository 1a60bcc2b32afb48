"""The compiled code of the native data path, if it is there."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

LINUX_ONLY = "the native data path is for Linux"


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
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) or "_hot" in str(error):
            return "it was not built: install gcc, libc6-dev, python3-dev and libssl-dev, then install rsock-nf again"
        return f"it cannot be loaded: {error}"
    return Library(_hot.ffi, _hot.lib)
