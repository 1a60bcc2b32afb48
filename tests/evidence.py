"""What a test that fails in a laboratory leaves behind: the capture of its wires, and the logs of its tunnels.

    with watched(lab, directory):     # a fixture's, around everything else that it makes
        ...

While inside, tcpdump captures what crosses the laboratory.  Of a test that fails, the capture, every log file below
``directory`` and the router's view are kept in ``tests/out/<test>/``, which the failure report names.
Of a test that passes nothing is kept.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rsock_nf.lab.lab import DEVICE, CommandFailed, Lab

OUT_VARIABLE = "RSOCK_NF_TESTS_OUT"
"""Names another directory than ``tests/out``."""
FAILED = pytest.StashKey[bool]()
"""In a test's stash: it has failed."""
SNAPLEN = 160
"""Bytes of each packet: the headers, and the beginning of a frame."""
CAPTURE_LIMIT = 25
"""Megabytes of a file; of a capture that grows larger the last two files are there."""
FLUSH = 1.2
"""Seconds until the kernel has handed tcpdump what it has seen (packet(7): a block of the ring is held for 1 s)."""
TAIL = 30
"""Lines of each log that are printed."""


@dataclass(slots=True)
class _Witness:
    """A laboratory that is watched."""

    lab: Lab | None
    directory: Path
    captures: Path

    def keep(self, out: Path) -> None:
        """Copy what there is to ``out``."""
        out.mkdir(parents=True, exist_ok=True)
        for capture in self.captures.iterdir():  # capture.pcap0, capture.pcap1
            shutil.copy(capture, out / f"capture-{capture.name[-1]}.pcap")
        for path in self.directory.rglob("*log*"):
            if path.is_file():
                shutil.copy(path, out / _log_name(path.relative_to(self.directory)))
        if self.lab and self.lab.kind:
            with contextlib.suppress(CommandFailed, OSError, subprocess.TimeoutExpired):
                said = self.lab.router.run(["nft", "list", "ruleset"]).stdout
                (out / "router.txt").write_text("\n".join([said, *self.lab.conntrack(), ""]))


def _log_name(path: Path) -> str:
    """``tunnel/run-server/server/log`` is ``server.log``."""
    parts = dict.fromkeys(part.removeprefix("run-") for part in path.parent.parts if part != "tunnel")
    return "-".join(parts) + ("." if path.name.startswith("log") else "-") + path.name


_watched: list[_Witness] = []
_unreported: list[Path] = []
"""Directories of evidence that no report has named yet."""


@contextlib.contextmanager
def watched(lab: Lab | None, directory: Path) -> Iterator[None]:
    """See the module.  ``lab`` is up already; None = there are logs only, below ``directory``."""
    with tempfile.TemporaryDirectory(prefix="rsock-nf-capture-") as captures:
        if lab:
            _capture(lab, Path(captures))
        witness = _Witness(lab, directory, Path(captures))
        _watched.append(witness)
        try:
            yield
        except BaseException:  # a tear-down that fails: no report is made while we are here
            time.sleep(FLUSH)
            out = _directory_of(os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0])
            witness.keep(out)
            _unreported.append(out)
            raise
        finally:
            _watched.remove(witness)


def _capture(lab: Lab, directory: Path) -> None:
    """Both wires of the router; without a router, the only wire.  Ends with the laboratory."""
    host, device = (lab.router, "any") if lab.kind else (lab.client, DEVICE)
    argv = ["tcpdump", "-i", device, "-w", str(directory / "capture.pcap"), "-U", "-Z", "root"]
    argv += ["-s", str(SNAPLEN), "-C", str(CAPTURE_LIMIT), "-W", "2"]
    host.popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def keep_evidence(test: str) -> list[tuple[str, str]]:
    """Keep what is watched now, on behalf of ``test``, which has failed: sections for its report."""
    if _watched:
        time.sleep(FLUSH)
        out = _directory_of(test)
        shutil.rmtree(out, ignore_errors=True)
        for number, witness in enumerate(_watched):
            witness.keep(out if len(_watched) == 1 else out / str(number))
        _unreported.append(out)
    sections = []
    while _unreported:
        out = _unreported.pop()
        files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
        sections.append(("kept", f"{out}: {', '.join(files)}"))
        for name in files:
            if name.endswith(".log"):
                lines = (out / name).read_text(errors="replace").splitlines()[-TAIL:]
                sections.append((f"the end of {name}", "\n".join(lines)))
    return sections


def out_directory() -> Path:
    """Where all runs leave what is worth looking at."""
    return Path(os.environ.get(OUT_VARIABLE) or Path(__file__).parent / "out")


def _directory_of(test: str) -> Path:
    return out_directory() / re.sub(r"[^\w.=-]+", "-", test.removeprefix("tests/")).strip("-")
