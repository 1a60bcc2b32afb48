"""The middlebox between client and router, in a namespace of its own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path as FilePath
from types import TracebackType
from typing import Self

from rsock_nf.lab.lab import DEVICE, INSIDE, PREFIX_LENGTH, ROUTER_INSIDE_IP, Lab
from rsock_nf.lab.netns import Namespace
from tests.faults.spoilt import Spoilt

NEAR, FAR = "near", "far"
"""The devices of the path, toward client and router."""


class Path:
    """``with Path(lab) as path:`` every packet between client and router passes the middlebox.

    To be made before anything is sent in ``lab``, which has a router.
    """

    def __init__(self, lab: Lab) -> None:
        self.spoilt = Spoilt()
        self._lab = lab
        self._namespace = Namespace(f"{lab.name}-path")
        try:
            self._insert()
            self._process = self._namespace.popen(
                [sys.executable, "-m", "tests.faults.middlebox", NEAR, FAR],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=FilePath(__file__).parents[2],
            )
            self.use(Spoilt())
        except BaseException:
            self._namespace.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._namespace.close()

    def use(self, spoilt: Spoilt) -> dict[str, int]:
        """From now on packets fare so.  Returns how many packets met what until now."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(spoilt.as_json()) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the middlebox has ended"
        self.spoilt = spoilt
        found: dict[str, int] = json.loads(answer)
        return found

    @contextlib.contextmanager
    def spoil(self, spoilt: Spoilt) -> Iterator[None]:
        """While inside, packets fare so; after it, as before."""
        before = self.spoilt
        self.use(spoilt)
        try:
            yield
        finally:
            self.use(before)

    def counters(self) -> dict[str, int]:
        """How many packets met what so far."""
        return self.use(self.spoilt)

    def _insert(self) -> None:
        """The wire between client and router becomes two, with the path between them.

        The devices compute no checksums and cut no segments, as the middlebox needs every packet as it is on a wire.
        """
        lab, name = self._lab, self._namespace.name
        self._namespace.sysctl("net.ipv6.conf.default.disable_ipv6", "1")
        lab.router.ip(
            f"link set {INSIDE} netns {name} name {NEAR}",
            f"link add {INSIDE} type veth peer name {FAR} netns {name}",
            f"link set {INSIDE} up",
            *(
                f"addr add {ROUTER_INSIDE_IP[version]}/{PREFIX_LENGTH[version]} dev {INSIDE}"
                + (" nodad" if version == 6 else "")
                for version in (4, 6)
            ),
        )
        self._namespace.ip(f"link set {NEAR} up", f"link set {FAR} up")
        ends = ((lab.client, DEVICE), (lab.router, INSIDE), (self._namespace, NEAR), (self._namespace, FAR))
        for host, device in ends:
            lab.offload(host, device, tx=False, tso=False, gro=False)
