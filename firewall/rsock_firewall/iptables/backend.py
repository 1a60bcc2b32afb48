"""The iptables backend, for kernels without nf_tables: legacy xtables through python-iptables.

Two chains of our own in the ``raw`` table of each address family, and a jump to each at the head of
PREROUTING and OUTPUT.  libiptc replaces a whole table in one system call, so every change is atomic
within a family.  Legacy tables have no owner: a foreign flush removes the rules until ``repair``.

python-iptables is imported here only, and late: it is slow, absent on most hosts, and raises anything
where the xtables libraries are missing.  It is not thread-safe: one lock, and xtables' own file lock.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from rsock_firewall import iptables_text as text
from rsock_firewall.iptables_text import COMMENT, IN_PREFIX, Line, chain_names, families, lines, spelt
from rsock_firewall.policy import (
    Counters,
    FirewallError,
    Held,
    Policy,
    PortRange,
    check_name,
    check_update,
    merged,
    unprivileged,
)

LOCK_WAIT = 5.0
"""Seconds to wait for another iptables command, where waiting harms nobody."""
UPDATE_WAIT = 0.5
"""The same, while traffic waits too."""
COMMITS = 5
"""Tries against foreign changes between reading and replacing a table (EAGAIN)."""


class Busy(FirewallError):  # noqa: N818 - what it says, not what went wrong
    """Another iptables command holds xtables' lock."""


class XtablesLock:
    """One thread of ours and no other iptables command at a time; re-entrant, so that several reads and writes wait once."""

    def __init__(self) -> None:
        self._threads = threading.RLock()
        self._depth = 0

    @contextmanager
    def held(self, seconds: float) -> Iterator[None]:
        """Wait that long at most; 0 = one try.  Raises ``Busy``."""
        with self._threads:
            descriptor = _take_file_lock(seconds) if self._depth == 0 else -1
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if descriptor >= 0:
                    os.close(descriptor)


_lock = XtablesLock()


class Iptables:
    """See ``policy.Firewall``."""

    name = "iptables"

    def probe(self) -> None:
        """Read the IPv4 raw table and build a rule; the kernel may load ``iptable_raw`` for that, nothing else changes."""
        with _table(4):
            _rule(4, Line("PREROUTING", "DROP", destination_ports=PortRange(1, 1), comment=COMMENT))

    @contextmanager
    def hold(self, policy: Policy) -> Iterator[Held]:
        """See ``policy.Firewall.hold``.  Nothing tells whether another live daemon has the same name."""
        held = IptablesHeld(policy)
        try:
            yield held
        finally:
            held.release()

    def clear(self, name: str) -> bool:
        """See ``policy.Firewall.clear``."""
        chains = chain_names(check_name(name))
        removed = [_replace(version, chains, []) for version in _loaded_families()]
        return any(counted is not None for counted in removed)

    def clear_all(self) -> list[str]:
        """See ``policy.Firewall.clear_all``."""
        return sorted(name for name in _instances() if self.clear(name))

    def left_behind(self, name: str) -> tuple[PortRange, ...]:
        """See ``policy.Firewall.left_behind``."""
        chain, _ = chain_names(check_name(name))
        found: list[PortRange] = []
        for version in _loaded_families():
            with _table(version) as table:
                found += _destination_ports(table, chain)
        return merged(found)

    def render(self, policy: Policy) -> str:
        """See ``policy.Firewall.render``."""
        return text.render(policy)

    def counters(self, name: str) -> Counters:
        """See ``policy.Firewall.counters``; since the last update that changed the rules."""
        total = Counters()
        chains = chain_names(check_name(name))
        found = False
        for version in _loaded_families():
            with _table(version) as table:
                found |= table.is_chain(chains[0])
                total = total.plus(_counted(table, chains))
        if not found:
            raise FirewallError(f"there are no chains {chains[0]} and {chains[1]} in the raw table")
        return total


class IptablesHeld:
    """See ``policy.Held``."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._chains = chain_names(policy.name)
        self._carried = Counters()
        """Counted by rules that were replaced since."""
        self._last = Counters()
        """What ``counters`` said last."""
        self._installed: dict[int, list[str]] = {}
        """Family: the fingerprint of what we wrote."""
        self._released = False
        try:
            with _lock.held(LOCK_WAIT):
                self._install(policy)
        except BaseException:
            with suppress(FirewallError):  # the first reason is the one to tell
                self.release()
            raise

    def update(self, policy: Policy) -> None:
        """See ``policy.Held.update``.  One commit for each family; a failure of the second undoes the first.

        Raises ``Busy``, with nothing changed, when another iptables command does not end within ``UPDATE_WAIT``.
        """
        check_update(self._policy, policy)
        if policy == self._policy:
            return
        with _lock.held(UPDATE_WAIT):
            try:
                self._install(policy)
            except FirewallError:
                self._install(self._policy)
                raise

    def fileno(self) -> int:
        """-1: legacy xtables tell nobody of changes."""
        return -1

    def repair(self) -> bool:
        """See ``policy.Held.repair``.  Waits for nobody: while another iptables command is at work, False."""
        try:
            with _lock.held(0):
                if all(_fingerprint(version, self._chains) == mine for version, mine in self._installed.items()):
                    return False
                self._install(self._policy)
                return True
        except Busy:
            return False

    def counters(self) -> Counters:
        """See ``policy.Held.counters``.  Waits for nobody: while another iptables command is at work, what was known last."""
        with suppress(Busy), _lock.held(0):
            total = self._carried
            for version in self._installed:
                with _table(version) as table:
                    total = total.plus(_counted(table, self._chains))
            # A rule that somebody else took out takes its count with it: no total falls below what was known.
            self._last = Counters(*map(max, total, self._last))
        return self._last

    def release(self) -> None:
        """See ``policy.Held.release``."""
        if self._released:
            return
        for version in list(self._installed):
            _replace(version, self._chains, [])
            del self._installed[version]
        self._released = True

    def _install(self, policy: Policy) -> None:
        """What rules that go had counted is carried on, but for what arrives while a table is replaced."""
        wanted = families(policy)
        for version in wanted:
            self._installed.setdefault(version, [])
            self._carry(_replace(version, self._chains, lines(policy, version)))
            self._installed[version] = _fingerprint(version, self._chains)
        for version in [version for version in self._installed if version not in wanted]:
            self._carry(_replace(version, self._chains, []))
            del self._installed[version]
        self._policy = policy
        self._carried = Counters(*map(max, self._carried, self._last))  # somebody else's flush took counts with it

    def _carry(self, counted: Counters | None) -> None:
        self._carried = self._carried.plus(counted or Counters())


def _replace(version: int, chains: tuple[str, str], new: list[Line]) -> Counters | None:
    """In one commit, take out the two chains and the jumps to them, and write ``new``.

    What those that went had counted; None = there was nothing.
    """
    for attempt in range(1, COMMITS + 1):
        with _table(version) as table:
            counted = _counted(table, chains)
            existed = _remove(table, chains)
            if not existed and not new:
                return None
            if new:
                for chain in chains:
                    table.create_chain(chain)
            for line in new:
                chain = _iptc().Chain(table, line.chain)
                rule = _rule(version, line)
                if line.comment:
                    chain.insert_rule(rule)
                else:
                    chain.append_rule(rule)
            try:
                table.commit()
            except _iptc().IPTCError as error:
                if "temporarily unavailable" not in str(error) or attempt == COMMITS:
                    raise
            else:
                return counted if existed else None
    raise AssertionError("the last attempt returns or raises")


def _remove(table: Any, chains: tuple[str, str]) -> bool:
    existed = False
    for builtin in ("PREROUTING", "OUTPUT"):
        chain = _iptc().Chain(table, builtin)
        while jump := next((rule for rule in chain.rules if rule.target and rule.target.name in chains), None):
            chain.delete_rule(jump)
            existed = True
    for name in chains:
        if table.is_chain(name):
            table.flush_entries(name)
            table.delete_chain(name)
            existed = True
    return existed


def _rule(version: int, line: Line) -> Any:
    iptc = _iptc()
    rule = iptc.Rule() if version == 4 else iptc.Rule6()
    rule.protocol = "tcp"
    if line.drop.source:
        rule.src = str(line.drop.source)
    if line.drop.destination:
        rule.dst = str(line.drop.destination)
    if line.device:
        rule.in_interface = line.device
    if line.source_ports or line.destination_ports:
        match = rule.create_match("tcp")
        if line.source_ports:
            match.sport = spelt(line.source_ports)
        if line.destination_ports:
            match.dport = spelt(line.destination_ports)
    if line.comment:
        rule.create_match("comment").comment = line.comment
    rule.create_target(line.target)
    return rule


def _destination_ports(table: Any, chain: str) -> Iterator[PortRange]:
    for rule in _iptc().Chain(table, chain).rules if table.is_chain(chain) else ():
        for match in rule.matches:
            if match.name == "tcp" and match.dport:
                first, _, last = match.dport.partition(":")
                yield PortRange(int(first), int(last or first))


def _fingerprint(version: int, chains: tuple[str, str]) -> list[str]:
    """Our chains' rules and the jumps to them, without counters."""
    found = []
    with _table(version) as table:
        for chain in ("PREROUTING", "OUTPUT", *chains):
            for rule in _iptc().Chain(table, chain).rules if table.is_chain(chain) else ():
                if chain in chains or (rule.target and rule.target.name in chains):
                    decoded = _iptc().easy.decode_iptc_rule(rule, ipv6=version == 6)
                    spelling = sorted((key, value) for key, value in decoded.items() if key != "counters")
                    found.append(f"{chain} {spelling}")
    return found


def _counted(table: Any, chains: tuple[str, str]) -> Counters:
    """By the rules in chains for what comes in and what goes out, as far as they are there."""
    sums = []
    for chain in chains:
        rules = _iptc().Chain(table, chain).rules if table.is_chain(chain) else []
        counts = [rule.get_counters() for rule in rules]
        sums += [sum(packets for packets, _ in counts), sum(octets for _, octets in counts)]
    return Counters(*sums)


def _instances() -> set[str]:
    """Named by the comment on a jump, or by the chain where a foreign flush took the jump."""
    names = set()
    for version in _loaded_families():
        with _table(version) as table:
            by_chain = {}
            for rule in _iptc().Chain(table, "PREROUTING").rules:
                for match in rule.matches:
                    if match.name == "comment" and match.comment.strip('"').startswith(COMMENT):
                        by_chain[rule.target.name] = match.comment.strip('"').removeprefix(COMMENT)
            for chain in table.chains:
                if chain.name.startswith(IN_PREFIX):
                    names.add(by_chain.get(chain.name, chain.name.removeprefix(IN_PREFIX)))
    return names


def _loaded_families() -> list[int]:
    """Those whose raw table this namespace has: looking into another would load it."""
    result = []
    for version, path in ((4, "ip_tables_names"), (6, "ip6_tables_names")):
        try:
            tables = Path("/proc/thread-self/net", path).read_text().split()
        except FileNotFoundError:
            continue
        except PermissionError:
            raise unprivileged() from None
        if "raw" in tables:
            result.append(version)
    return result


@contextmanager
def _table(version: int) -> Iterator[Any]:
    """The raw table as it is now; nothing is written before ``commit``.  Turns what goes wrong into ``FirewallError``."""
    iptc = _iptc()
    with _lock.held(LOCK_WAIT):
        table = None
        try:
            table = iptc.Table("raw", autocommit=False) if version == 4 else iptc.Table6("raw", autocommit=False)
            table.refresh()
            yield table
        except (iptc.IPTCError, iptc.XTablesError, ValueError, AttributeError) as error:
            reason = str(error)
            if "ermi" in reason:  # "Permission denied (you must be root)", "Operation not permitted"
                raise unprivileged() from error
            raise FirewallError(f"iptables (legacy, IPv{version}, table raw): {reason}") from error
        finally:
            if table is not None:
                table.close()


def _take_file_lock(seconds: float) -> int:
    """The lock that every iptables command takes (iptables/xshared.c), so that none writes between our read and write.

    Returns the descriptor: closing it lets go.
    """
    path = os.environ.get("XTABLES_LOCKFILE", "/run/xtables.lock")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PermissionError as error:
        raise unprivileged() from error
    except OSError as error:
        raise FirewallError(f"iptables: cannot open {path}: {error.strerror}") from error
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                raise Busy(f"iptables: another command holds {path} for over {seconds:g} s") from None
            time.sleep(0.02)  # flock has no timeout
        else:
            return descriptor


@cache
def _iptc() -> Any:
    try:
        import iptc
        import iptc.easy
    except ModuleNotFoundError as error:
        raise FirewallError(
            "iptables backend unavailable: python-iptables is missing: pip install python-iptables"
        ) from error
    except Exception as error:  # whatever python-iptables and ctypes raise
        raise FirewallError(f"iptables backend unavailable: {type(error).__name__}: {error}") from error
    return iptc
