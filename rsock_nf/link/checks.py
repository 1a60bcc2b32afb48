"""What ``rsock-nf doctor`` finds when it looks at a host."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Verdict(enum.Enum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    verdict: Verdict
    subject: str
    text: str
    """What was found and, unless all is well, what to do."""
    remedy: str = ""
    """What to do, where ``text`` does not say it."""
    quiet: bool = False
    """It helps nobody whose tunnel works, nor anybody whose tunnel does not: it is shown to who asks for everything."""

    def __str__(self) -> str:
        told = f"{self.text}: {self.remedy}" if self.remedy else self.text
        return f"{self.verdict.value:<5} {self.subject}: {told}"
