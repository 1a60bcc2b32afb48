"""``demo``: a tunnel at work in network namespaces."""

from __future__ import annotations

import argparse


def run(arguments: argparse.Namespace) -> int:
    """The demonstration."""
    from rsock_nf.lab.demo import main

    return main(arguments.extra)
