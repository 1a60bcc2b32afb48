"""``python -m rsock_nf``, and ``python /path/to/rsock_nf/__main__.py``: the command line, also from a bare checkout."""

from __future__ import annotations

import gc
import sys
from importlib.util import find_spec
from pathlib import Path


def _complete_path() -> None:
    """Make sure that this very copy is what gets imported, and that ``rsock_firewall`` beside it is found."""
    package = Path(__file__).resolve().parent
    spec = find_spec("rsock_nf")
    if spec is None or spec.origin is None or Path(spec.origin).resolve().parent != package:
        sys.path.insert(0, str(package.parent))
    if find_spec("rsock_firewall") is None:
        sys.path.append(str(package.parent / "firewall"))


if __name__ == "__main__":
    # Imports make thousands of objects that stay: without this the cycle collector looks through them again and again.
    gc.set_threshold(100_000, 20, 20)
    _complete_path()
    from rsock_nf.cli import main
    from rsock_nf.lazy_package import defer

    defer("pyroute2")

    sys.exit(main())
