"""``genkey``: print a new secret."""

from __future__ import annotations

import argparse
import os

from rsock_nf.commands.output import say


def run(_: argparse.Namespace) -> int:
    """Print a new secret."""
    from rsock_nf.config.values import SECRET_BYTES, format_secret

    say(format_secret(os.urandom(SECRET_BYTES)))
    return 0
