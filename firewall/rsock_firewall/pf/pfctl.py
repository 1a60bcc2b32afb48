"""pfctl(8): one method for each thing that we ask it, and what its answers mean.

It reads output that is meant for programs: labels for counters and ports, exit codes and ``Status:`` for the rest.  The
text of our rules is never parsed, only compared with what it was before.  Not here: when to do what (``backend``).
Sources: pfctl(8) and sbin/pfctl/pfctl.c of FreeBSD 14 and OpenBSD 7, pfctl(8) of macOS.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from rsock_firewall.command import Done, Run
from rsock_firewall.pf import text as pf_text
from rsock_firewall.policy import FirewallError, PortRange

PFCTL = "/sbin/pfctl"
ENABLED_BY_US = "rsock-nf-enabled-pf"
"""An anchor without rules.  A line in the main ruleset that calls it says that pf was off before."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What differs between systems."""

    prefix: str
    """An instance's anchor is this and its name."""
    parent: str
    """The anchor whose children are the anchors of all instances."""
    longest_name: int
    """Of an instance, characters; see ``_LONGEST_ANCHOR``."""
    call: str
    """The line of the main ruleset that has our anchors evaluated."""
    remedy: str
    """What to do where the main ruleset does not have it."""
    shows: tuple[str, ...] = ("rules",)
    """What the main ruleset consists of, for ``pfctl -s``."""
    load_main: tuple[str, ...] | None = ("-f", "-")
    """Loads filter rules into an empty main ruleset; None = the main ruleset is never ours."""
    tokens: bool = False
    """pf is enabled by counted references (``pfctl -E``, ``-X TOKEN``)."""
    no_device: str = ""
    """What to do where the kernel has no pf."""


_ADD = 'add this line to /etc/pf.conf before any "quick" rule, then pfctl -f /etc/pf.conf'
_LONGEST_ANCHOR = 63
"""What pfctl copies into ``pf_anchor.name``, 64 bytes, when it loads rules (pfctl_rules()): on FreeBSD and macOS the
whole path of the anchor, on OpenBSD its last component with the slash before it."""
FREEBSD = Dialect(
    prefix="rsock-nf/",
    parent="rsock-nf",
    longest_name=_LONGEST_ANCHOR - len("rsock-nf/"),
    call='anchor "rsock-nf/*"',
    remedy=_ADD,
    shows=("rules", "nat"),
    load_main=("-R", "-f", "-"),  # -R: options such as `set skip` stay as they are
    no_device="kldload pf",
)
OPENBSD = Dialect(
    prefix="rsock-nf/",
    parent="rsock-nf",
    longest_name=_LONGEST_ANCHOR - len("/"),
    call='anchor "rsock-nf/*"',
    remedy=_ADD,
)
MACOS = Dialect(
    prefix="com.apple/rsock-nf.",
    parent="com.apple",
    longest_name=_LONGEST_ANCHOR - len("com.apple/rsock-nf."),
    call='anchor "com.apple/*"',
    remedy="put back this line, which /etc/pf.conf has as shipped, then pfctl -f /etc/pf.conf",
    load_main=None,
    tokens=True,
)


class NoPf(FirewallError):  # noqa: N818 - what it says, not what went wrong
    """This kernel has no pf, so there cannot be any rules of ours in it."""


class Main(NamedTuple):
    """The main ruleset, as far as it concerns us."""

    calls_us: bool
    """It evaluates our anchors for every packet in both directions."""
    enabled_by_us: bool
    foreign: tuple[str, ...]
    """Everything that is not our own."""
    ahead: tuple[str, ...]
    """Of that, the rules that come before the call of our anchors."""


class Labelled(NamedTuple):
    """What a rule of ours says of itself, and what it counted."""

    direction: str
    """``in`` or ``out``."""
    ports: PortRange
    token: str | None
    packets: int
    octets: int


class Pfctl:
    """Every method raises ``FirewallError``, one line; ``NoPf`` where the kernel has none."""

    def __init__(self, dialect: Dialect, run: Run) -> None:
        self.dialect = dialect
        self._run = run

    def enabled(self) -> bool:
        """Whether pf looks at packets at all."""
        found = re.search(r"^Status: (Enabled|Disabled)", self._output("-s", "info"), re.MULTILINE)
        if found is None:
            raise FirewallError("pfctl -s info does not say whether pf is enabled")
        return found[1] == "Enabled"

    def main(self) -> Main:
        """Read the main ruleset."""
        found = [line.strip() for show in self.dialect.shows for line in self._output("-s", show).splitlines()]
        ours = re.compile(rf"{re.escape(self.dialect.call)}( quick)?( all)?")
        marks = re.compile(rf'anchor "{ENABLED_BY_US}"( all)?')
        called = next((at for at, line in enumerate(found) if ours.fullmatch(line)), None)
        foreign = [
            (at, line)
            for at, line in enumerate(found)
            if line and not ours.fullmatch(line) and not marks.fullmatch(line)
        ]
        return Main(
            called is not None,
            any(marks.fullmatch(line) for line in found),
            tuple(line for _, line in foreign),
            tuple(line for at, line in foreign if called is not None and at < called),
        )

    def skips(self, device: str) -> bool:
        """Whether ``set skip on`` keeps pf away from the device, or from its driver's interface group."""
        skipped = re.findall(r"^\s*(\S+) \(skip\)", self._output("-v", "-s", "Interfaces"), re.MULTILINE)
        return device in skipped or device.rstrip("0123456789") in skipped

    def load_main(self, *, enabled_by_us: bool) -> None:
        """Replace a main ruleset that is empty or ours by the call of our anchors."""
        if self.dialect.load_main is None:
            raise AssertionError("the main ruleset is not ours to load")
        marker = f'anchor "{ENABLED_BY_US}"\n' if enabled_by_us else ""
        self._output(*self.dialect.load_main, text=f"{self.dialect.call}\n{marker}")

    def flush_main(self) -> None:
        """Remove the filter rules of the main ruleset."""
        self._output("-F", "rules")

    def enable(self) -> None:
        """Enable pf.  ``pfctl -e`` exits with 1 when pf is enabled already, which is no error here."""
        done = self._call("-e")
        if done.code and "already enabled" not in done.errors:
            raise self._refusal(("-e",), done)

    def disable(self) -> None:
        """Switch pf off.  It is no error when it is off already."""
        done = self._call("-d")
        if done.code and "not enabled" not in done.errors:
            raise self._refusal(("-d",), done)

    def take_reference(self) -> str:
        """Enable pf, or add a reference to it.  Returns the token that gives the reference back."""
        done = self._checked("-E")
        token = re.search(r"^Token : (\d+)", done.errors + done.output, re.MULTILINE)
        if token is None:
            raise FirewallError("pfctl -E gave no token")
        return token[1]

    def release_reference(self, token: str) -> None:
        """Give a reference back.  Errors are ignored: the token is not valid any more when somebody switched pf off
        (``pfctl -d``)."""
        self._call("-X", token)

    def load(self, anchor: str, rules: str) -> None:
        """Replace an anchor's rules in one transaction: all of them or none, and no packet meets a mixture."""
        self._output("-a", anchor, "-f", "-", text=rules)

    def flush(self, anchor: str) -> None:
        """Remove an anchor's rules; the kernel forgets an anchor without rules."""
        self._output("-a", anchor, "-F", "rules")

    def rules(self, anchor: str) -> list[str]:
        """An anchor's rules in pfctl's own spelling; empty where there is no such anchor."""
        return self._output("-a", anchor, "-s", "rules", absent_ok=True).splitlines()

    def labels(self, anchor: str) -> list[Labelled]:
        """The labels and counts of our rules in the anchor.  Each line is label, evaluations, packets, bytes, and more
        numbers."""
        result = []
        for line in self._output("-a", anchor, "-s", "labels", absent_ok=True).splitlines():
            words = line.split()
            read = pf_text.read_label(words[0]) if len(words) >= 4 else None
            if read:
                result.append(Labelled(*read, int(words[2]), int(words[3])))
        return result

    def instances(self) -> list[str]:
        """The names of the instances that have rules; an anchor without any may linger for a while."""
        prefix = self.dialect.prefix
        found = self._output("-a", self.dialect.parent, "-s", "Anchors", absent_ok=True).split()
        return sorted(path.removeprefix(prefix) for path in found if path.startswith(prefix) and self.rules(path))

    def _output(self, *arguments: str, text: str = "", absent_ok: bool = False) -> str:
        return self._checked(*arguments, text=text, absent_ok=absent_ok).output

    def _checked(self, *arguments: str, text: str = "", absent_ok: bool = False) -> Done:
        done = self._call(*arguments, text=text)
        # EINVAL for an anchor that is not there; some releases say so and end with 0
        if absent_ok and re.search(r"Invalid argument|not found|does not exist", done.errors):
            return Done(0, "", "")
        if done.code:
            raise self._refusal(arguments, done)
        return done

    def _call(self, *arguments: str, text: str = "") -> Done:
        return self._run([PFCTL, *arguments], text)

    def _refusal(self, arguments: tuple[str, ...], done: Done) -> FirewallError:
        said = [line for line in done.errors.splitlines() if line.startswith(("stdin:", "pfctl:"))]
        said = [line for line in said if not line.startswith("pfctl: Use of -f option")]  # macOS warns of any -f
        reason = said[0] if said else (done.errors.strip().splitlines() or [f"exit code {done.code}"])[-1]
        if "Permission denied" in reason:
            return FirewallError("changing firewall rules needs root")
        if "Operation not permitted" in reason:
            return FirewallError("the system's securelevel forbids any change of pf's rules (sysctl kern.securelevel)")
        if "/dev/pf" in reason:
            remedy = f"; try: {self.dialect.no_device}" if self.dialect.no_device else ""
            return NoPf(f"this kernel has no pf ({reason.removeprefix('pfctl: ')}){remedy}")
        return FirewallError(f"pfctl {' '.join(arguments)}: {reason.removeprefix('pfctl: ')}")
