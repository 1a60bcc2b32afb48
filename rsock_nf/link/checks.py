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

    def __str__(self) -> str:
        return f"{self.verdict.value:<5} {self.subject}: {self.text}"
