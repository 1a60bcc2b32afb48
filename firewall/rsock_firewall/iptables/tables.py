"""The tables ``raw`` and ``mangle`` of each address family, read and replaced as a whole through python-iptables.

libiptc replaces a table in one system call, so a change is atomic within a family.  Only this file imports
python-iptables, and late: that is slow, most hosts do not have it, and it raises any exception where the xtables
libraries are missing.  It is not thread-safe, so every access takes a lock of ours and xtables' own file lock.

What the rules are is in ``text``; when to change them is decided in ``backend``.
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

from rsock_firewall.held import Busy
from rsock_firewall.iptables.text import COMMENT, IN_PREFIX, Line, Place, spelt
from rsock_firewall.policy import Counters, FirewallError, PortRange, unprivileged

LOCK_WAIT = 5.0
"""Seconds to wait for another iptables command, where waiting harms nobody."""
COMMITS = 5
"""Tries against foreign changes between reading and replacing a table (EAGAIN)."""
_NET = Path("/proc/thread-self/net")
_NAMES = ((4, "ip_tables_names"), (6, "ip6_tables_names"))
_NAMES_BYTES = 4096
_kept: dict[str, int] = {}
"""Descriptors of files that only root can open, by their names (``keep_files``)."""
_locks: list[int] = []
"""The lock once more for each worker: a descriptor that processes share would not keep them apart."""


class XtablesLock:
    """Keeps our other threads and other iptables commands out.  It is re-entrant, so that several reads and writes wait
    only once."""

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
                    _give_up(descriptor)


lock = XtablesLock()


def replace_rules(place: Place, chains: tuple[str, str], new: list[Line]) -> Counters | None:
    """Replace the two chains and the jumps to them by ``new``, in one commit.

    Returns the counts of the rules that were replaced; None = there were none.
    """
    for attempt in range(1, COMMITS + 1):
        with open_table(place) as table:
            before = counted(table, chains)
            existed = _remove(table, place.hooks, chains)
            if not existed and not new:
                return None
            if new:
                for chain in chains:
                    table.create_chain(chain)
            for line in new:
                chain = _iptc().Chain(table, line.chain)
                rule = make_rule(place.version, line)
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
                return before if existed else None
    raise AssertionError("the last attempt returns or raises")


def _remove(table: Any, hooks: tuple[str, str], chains: tuple[str, str]) -> bool:
    existed = False
    for builtin in hooks:
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


def make_rule(version: int, line: Line) -> Any:
    """``line`` as python-iptables has it."""
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


def destination_ports(table: Any, chain: str) -> Iterator[PortRange]:
    """The ports that the rules of a chain match as destination."""
    for rule in _iptc().Chain(table, chain).rules if table.is_chain(chain) else ():
        for match in rule.matches:
            if match.name == "tcp" and match.dport:
                first, _, last = match.dport.partition(":")
                yield PortRange(int(first), int(last or first))


def fingerprint(place: Place, chains: tuple[str, str]) -> list[str]:
    """Our chains' rules and the jumps to them, without counters, to compare with later."""
    found = []
    with open_table(place) as table:
        for chain in (*place.hooks, *chains):
            for rule in _iptc().Chain(table, chain).rules if table.is_chain(chain) else ():
                if chain in chains or (rule.target and rule.target.name in chains):
                    decoded = _iptc().easy.decode_iptc_rule(rule, ipv6=place.version == 6)
                    spelling = sorted((key, value) for key, value in decoded.items() if key != "counters")
                    found.append(f"{chain} {spelling}")
    return found


def counted(table: Any, chains: tuple[str, str]) -> Counters:
    """The counts of the rules in the inbound and the output chain, if they are there."""
    sums = []
    for chain in chains:
        rules = _iptc().Chain(table, chain).rules if table.is_chain(chain) else []
        counts = [rule.get_counters() for rule in rules]
        sums += [sum(packets for packets, _ in counts), sum(octets for _, octets in counts)]
    return Counters(*sums)


def instances() -> set[str]:
    """The instances' names: from the comment on a jump or, where somebody removed the jump, from the chain."""
    names = set()
    for place in loaded_places():
        with open_table(place) as table:
            by_chain = {}
            for rule in _iptc().Chain(table, place.hooks[0]).rules:
                for match in rule.matches:
                    if match.name == "comment" and match.comment.strip('"').startswith(COMMENT):
                        by_chain[rule.target.name] = match.comment.strip('"').removeprefix(COMMENT)
            for chain in table.chains:
                if chain.name.startswith(IN_PREFIX):
                    names.add(by_chain.get(chain.name, chain.name.removeprefix(IN_PREFIX)))
    return names


def loaded_places() -> list[Place]:
    """The tables of ours that this namespace has.  To read another one would make the kernel load it."""
    result = []
    for version, path in _NAMES:
        try:
            tables = _table_names(path).split()
        except FileNotFoundError:
            continue
        except PermissionError:
            raise unprivileged() from None
        result += [Place(version, table) for table in ("raw", "mangle") if table in tables]
    return result


def _table_names(name: str) -> str:
    if name in _kept:
        return os.pread(_kept[name], _NAMES_BYTES, 0).decode()
    return (_NET / name).read_text()


def keep_files(workers: int) -> None:
    """Open, for good, what only root can: the lock, and the lists of tables of this network namespace.

    ``workers``: see ``rsock_firewall.keep_files``.  Raises ``FirewallError``.
    """
    _kept[_lock_path()] = _open_lock(_lock_path())
    _locks[:] = [_open_lock(_lock_path()) for _ in range(workers)]
    for _, name in _NAMES:
        with suppress(OSError):  # a kernel without IPv6
            _kept[name] = os.open(_NET / name, os.O_RDONLY | os.O_CLOEXEC)


def kept_by(worker: int) -> list[int]:
    """Of what ``keep_files`` opened, what process ``worker`` is to use from now on: it has just been forked."""
    if _locks:
        _kept[_lock_path()] = _locks[worker]
    return list(_kept.values())


@contextmanager
def open_table(place: Place) -> Iterator[Any]:
    """The table as it is now.  Nothing is written before ``commit``.  Turns errors into ``FirewallError``."""
    iptc = _iptc()
    make = iptc.Table if place.version == 4 else iptc.Table6
    with lock.held(LOCK_WAIT):
        table = None
        try:
            table = make(place.table, autocommit=False)
            table.refresh()
            yield table
        except (iptc.IPTCError, iptc.XTablesError, ValueError, AttributeError, OSError) as error:
            # OSError: no descriptor is left; python-iptables duplicates one to see what a library prints.
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            if "ermi" in reason:  # "Permission denied (you must be root)", "Operation not permitted"
                raise unprivileged() from error
            raise FirewallError(f"iptables (legacy, IPv{place.version}, table {place.table}): {reason}") from error
        finally:
            if table is not None:
                table.close()
                # python-iptables would look for a rule's target in this closed table, too, and crash the process
                make._cache.pop(place.table, None)  # noqa: SLF001 - there is no other way


def _lock_path() -> str:
    return os.environ.get("XTABLES_LOCKFILE", "/run/xtables.lock")


def _take_file_lock(seconds: float) -> int:
    """Take the lock that every iptables command takes (iptables/xshared.c), so that none writes between our read and
    write.

    Returns the descriptor, for ``_give_up``.
    """
    path = _lock_path()
    descriptor = _kept[path] if path in _kept else _open_lock(path)
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                _give_up(descriptor)
                raise Busy(f"iptables: another command holds {path} for over {seconds:g} s") from None
            time.sleep(0.02)  # flock has no timeout
        else:
            return descriptor


def _open_lock(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PermissionError as error:
        raise unprivileged() from error
    except OSError as error:
        raise FirewallError(f"iptables: cannot open {path}: {error.strerror}") from error


def _give_up(descriptor: int) -> None:
    """Release the lock on it."""
    if descriptor in _kept.values():
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    else:
        os.close(descriptor)


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
