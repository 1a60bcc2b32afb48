"""``schema``: print the JSON schema of the configuration file."""

from __future__ import annotations

import argparse

from rsock_nf.commands.output import say


def run(_: argparse.Namespace) -> int:
    """Print the JSON schema."""
    import json

    from rsock_nf import config

    say(json.dumps(config.schema(), indent=2))
    return 0
