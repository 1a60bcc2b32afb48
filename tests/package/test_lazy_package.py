"""A package whose ``__init__`` runs late: submodules come alone, and everything else comes as always."""

from __future__ import annotations

import subprocess
import sys

import pytest

BEGIN = "import sys\nfrom rsock_nf.lazy_package import defer\ndefer('pyroute2')\n"


@pytest.mark.parametrize(
    ("code", "whole"),
    [
        ("from pyroute2.netlink.rtnl.rtmsg import rtmsg; rtmsg()", False),
        ("import rsock_nf.link.linux.rtnetlink, rsock_firewall; rsock_firewall.select('nftables')", False),
        ("from pyroute2 import netns; netns.listnetns", False),
        ("import pyroute2; pyroute2.netns.listnetns", False),
        ("from pyroute2 import IPRoute; IPRoute.close", True),
        ("import pyroute2; pyroute2.IPRoute; assert pyroute2.__version__", True),
        ("import pyroute2\nassert not hasattr(pyroute2, 'no_such_thing')", True),
    ],
)
def test_what_is_imported(code: str, *, whole: bool) -> None:
    code = f"{BEGIN}{code}\nsys.exit(('pyroute2.ndb.main' in sys.modules) is not {whole})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_package_that_is_not_there_stays_away() -> None:
    code = (
        "from rsock_nf.lazy_package import defer\ndefer('no_such_package')\n"
        "try: import no_such_package\nexcept ModuleNotFoundError: raise SystemExit(0)\nraise SystemExit(1)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
