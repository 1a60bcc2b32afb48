"""What reading a configuration file, or the flags of the original, comes to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # making its dataclasses takes 20 ms, and `genkey` needs none of them
    from rsock_nf.settings import Settings

COMMAND_LINE = Path("the command line")
"""Stands for the configuration file of an instance that was started by flags."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """A file that was read, understood and found consistent."""

    settings: Settings
    warnings: tuple[str, ...]
    """One line each: what works, but should be known (a secret that others can read, a cipher that seals nothing)."""
    notes: tuple[str, ...] = ()
    """One line each: how a configuration of the original was understood."""
    foreground: bool = False
    """A configuration of the original asks to stay in the foreground (``daemon`` is 0)."""
