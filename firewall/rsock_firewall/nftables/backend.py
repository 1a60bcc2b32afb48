"""The nftables backend: one ``inet`` table for each instance, changed by atomic batches only.

Where the kernel has the flags owner and persist (Linux >= 6.9), the table belongs to the daemon's netlink socket.
Nobody else can change it; it stays after a crash, and the restarted daemon takes it over.  On older kernels it is a
plain table, and ``repair`` puts it back after somebody else's flush.  The flag owner is never used alone: the rules
would disappear with a killed daemon.

The state is always read from the kernel.  Nothing is remembered from one process to the next.

The way of a change through this room: ``text`` says what the rules are, ``backend`` when they are installed,
``messages`` how the kernel is told, ``sockets`` sends, and ``state`` reads what the kernel has.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import replace
from ipaddress import IPv4Address

from rsock_firewall.held import until_exit
from rsock_firewall.nftables import messages as nf
from rsock_firewall.nftables import text
from rsock_firewall.nftables.counters import count
from rsock_firewall.nftables.sockets import ChangeEvents, NfSocket, Refused
from rsock_firewall.nftables.state import Installed, hooks_of, read
from rsock_firewall.policy import (
    Counters,
    Drop,
    FirewallError,
    Held,
    Policy,
    PortRange,
    check_name,
    check_update,
    merged,
    unprivileged,
)

PLAIN = 0
OWNED = nf.TABLE_OWNER | nf.TABLE_PERSIST


class Nftables:
    """See ``policy.Firewall``."""

    name = "nftables"

    def __init__(self, *, persist: bool | None = None, ingress: bool | None = None) -> None:
        """None = what this kernel has, which ``probe`` finds out.  Tests set them to use the code for older kernels."""
        self._persist = persist
        self._ingress = ingress
        self._probed = False

    def probe(self) -> None:
        """Send the kernel a whole table in a batch whose last message must fail.

        Its answer says what it supports, and it changes nothing."""
        if self._probed:
            return
        missing = nf.delete_table(f"{text.TABLE_PREFIX}probe.{os.getpid()}.missing")
        policy = Policy(f"probe.{os.getpid()}", "lo", (IPv4Address("127.0.0.1"),), (PortRange(1, 1),))
        refused = None
        with closing(NfSocket()) as netlink:
            for persist, ingress in self._to_try():
                flags = OWNED if persist else PLAIN
                messages = [*_whole_table(policy, flags, ingress=ingress), missing]
                refused = _refusal(netlink, messages)
                if refused.index == len(messages) - 1:
                    self._persist, self._ingress, self._probed = persist, ingress, True
                    return
                if refused.index < 0:
                    raise _explained(refused, policy)
        raise FirewallError(f"this kernel's nf_tables lacks what the rules need: {refused}")

    def _to_try(self) -> Iterator[tuple[bool, bool]]:
        """(persist, ingress), best first."""
        for persist in (True, False) if self._persist is None else (self._persist,):
            for ingress in (True, False) if self._ingress is None else (self._ingress,):
                yield persist, ingress

    def hold(self, policy: Policy) -> AbstractContextManager[Held]:
        """See ``policy.Firewall.hold``.  The table's owner is the socket of the ``Held``."""
        return until_exit(lambda: self._held(policy))

    def _held(self, policy: Policy) -> NftablesHeld:
        self.probe()
        return NftablesHeld(policy, OWNED if self._persist else PLAIN, ingress=bool(self._ingress))

    def clear(self, name: str) -> bool:
        """See ``policy.Firewall.clear``.  Raises ``FirewallError`` for a table that a daemon holds, or that has rules
        of somebody else."""
        table = text.TABLE_PREFIX + check_name(name)
        with closing(NfSocket()) as netlink:
            found = read(netlink, table)
            if found is None:
                return False
            if found.flags & nf.TABLE_OWNER:
                raise FirewallError(
                    f"table inet {table} is held by a running rsock-nf instance {name}: stop that first"
                )
            if found.foreign:
                raise _foreign(table)
            try:
                netlink.commit([nf.delete_table(table)])
            except Refused as refused:
                if refused.code == errno.ENOENT:
                    return False
                raise FirewallError(f"table inet {table} cannot be removed: {refused}") from refused
            return True

    def clear_all(self) -> list[str]:
        """See ``policy.Firewall.clear_all``.  Removes all that it can before it raises ``FirewallError`` about those
        that it cannot."""
        with closing(NfSocket()) as netlink:
            tables = [str(table.get_attr("NFTA_TABLE_NAME")) for table in netlink.dump(nf.get_table(None))]
        removed, refusals = [], []
        for table in sorted(table for table in tables if table.startswith(text.TABLE_PREFIX)):
            name = table.removeprefix(text.TABLE_PREFIX)
            try:
                removed += [name] if self.clear(name) else []
            except FirewallError as error:
                refusals.append(str(error))
        if refusals:
            raise FirewallError("; ".join(refusals))
        return removed

    def left_behind(self, name: str) -> tuple[PortRange, ...]:
        """See ``policy.Firewall.left_behind``."""
        with closing(NfSocket()) as netlink:
            found = read(netlink, text.TABLE_PREFIX + check_name(name))
        return tuple(found.sets.get("local_ports", ())) if found else ()

    def obstacles(self, policy: Policy) -> list[str]:  # noqa: ARG002 - as ``Firewall`` has it
        """None: what another table accepts, ours still drops."""
        return []

    def render(self, policy: Policy) -> str:
        """See ``policy.Firewall.render``: for ``nft -f``."""
        return text.render(policy, ingress=self._ingress is not False)


class NftablesHeld:
    """See ``policy.Held``.  Keeps the netlink socket that owns the table."""

    def __init__(self, policy: Policy, flags: int, *, ingress: bool) -> None:
        self._policy = policy
        self._flags = flags
        self._ingress = ingress
        self._table = text.TABLE_PREFIX + policy.name
        self._known: Installed | None = None
        self._generation = -1
        self._ifindex: int | None = None
        """The device's index when the rules were last found on it.  A device with the same name and another index is
        another device."""
        self._released = False
        with ExitStack() as undo:
            self._netlink = undo.enter_context(closing(NfSocket()))
            self._events = undo.enter_context(closing(ChangeEvents()))
            self._install(policy, self._left_behind())
            undo.pop_all()

    def _left_behind(self) -> Installed | None:
        """The table that a predecessor left.  Raises ``FirewallError`` if we must not take it over."""
        found = read(self._netlink, self._table)
        if found and found.flags & nf.TABLE_OWNER:
            raise _live_owner(self._policy.name)
        if found and found.foreign:
            raise _foreign(self._table)
        return found

    def update(self, policy: Policy) -> None:
        """See ``policy.Held.update``.  Ports change element by element; rules are swapped only when addresses change.

        A device that was deleted and made again under its name has no chain any more (Linux < 6.16).  So the device is
        always checked.
        """
        check_update(self._policy, policy)
        same_device = self._ifindex == _index_of(self._policy.device)
        if policy == self._policy and same_device:
            return
        if same_device and self._same_rules(policy) and self._read_generation() == self._generation:
            self._install(policy, self._known)
        else:
            self._install(policy, read(self._netlink, self._table))

    def fileno(self) -> int:
        """See ``policy.Held.fileno``: the kernel's notifications of rule changes."""
        return self._events.fileno()

    def repair(self) -> bool:
        """See ``policy.Held.repair``.  When nothing changed on the host, it asks the kernel one small question."""
        self._events.drain()
        generation, ifindex = self._read_generation(), _index_of(self._policy.device)
        if (generation, ifindex) == (self._generation, self._ifindex):
            return False
        found = read(self._netlink, self._table)
        if found and self._stands(found):
            self._generation, self._ifindex = generation, ifindex
            return False
        self._install(self._policy, found)
        return True

    def counters(self) -> Counters:
        """See ``policy.Held.counters``."""
        return _counters(self._netlink, self._table)

    def release(self) -> None:
        """See ``policy.Held.release``."""
        if self._released:
            return
        try:
            self._netlink.commit([nf.delete_table(self._table)])
        except Refused as refused:
            if refused.code != errno.ENOENT:
                raise FirewallError(f"table inet {self._table} cannot be removed: {refused}") from refused
        finally:
            self._close()

    def _install(self, policy: Policy, found: Installed | None) -> None:
        ifindex = _index_of(policy.device)
        if policy.device is not None and ifindex is None:
            raise FirewallError(f"device {policy.device} does not exist: no rules can be put on it")
        keep_rules = found is not None and self._stands(found) and self._same_rules(policy)
        batches = self._batches(policy, found, keep_rules=keep_rules)
        try:
            for messages in batches:
                self._netlink.commit(messages)
        except Refused as refused:
            raise _explained(refused, policy) from refused
        self._policy, self._ifindex = policy, ifindex
        if found and keep_rules and found is self._known:
            self._generation += len(batches)  # 0 or 1; if others committed too, ``repair`` sees a difference
            self._known = replace(found, sets={name: list(merged(p)) for name, p in text.port_sets(policy).items()})
        else:
            self._generation = self._read_generation()
            self._known = read(self._netlink, self._table)

    def _stands(self, found: Installed) -> bool:
        known = self._known
        return (
            known is not None and found.rules == known.rules and found.stands_for(self._policy, ingress=self._ingress)
        )

    def _chains(self, policy: Policy) -> dict[str, list[Drop]]:
        return text.chains(policy, ingress=self._ingress)

    def _same_rules(self, policy: Policy) -> bool:
        old, new = self._policy, policy
        return old.device == new.device and self._chains(old) == self._chains(new)

    def _batches(self, policy: Policy, found: Installed | None, *, keep_rules: bool) -> list[list[nf.Message]]:
        """The batches that turn ``found`` into the policy: one, or none if all is there already.

        Three when the inbound rules move to another hook: the old chain goes only when the new one drops.  The kernel
        refuses (EINVAL) a batch that takes a table over and makes a base chain.
        """
        if found is None:
            return [_whole_table(policy, self._flags, ingress=self._ingress)]
        # an orphan of ours has lost the owner flag and kept persist; a plain table can never become an owned one
        takes_over = bool(self._flags) and found.flags == nf.TABLE_PERSIST
        take_over = [nf.new_table(self._table, self._flags)] if takes_over else []
        usable = not found.foreign and (takes_over or found.flags == self._flags)
        if usable and found.same_shape(policy, ingress=self._ingress):
            messages = [*take_over, *self._changes(policy, found, keep_rules=keep_rules)]
            return [messages] if messages else []
        if usable and found.takes_chains_of(policy, ingress=self._ingress):
            wanted = hooks_of(policy, ingress=self._ingress)
            gone = []
            for chain in found.hooks.keys() - wanted.keys():
                gone += [nf.delete_rules(self._table, chain), nf.delete_chain(self._table, chain)]
            moved = self._changes(policy, found, keep_rules=False)
            return [messages for messages in (take_over, moved, gone) if messages]
        return [[nf.delete_table(self._table), *_whole_table(policy, self._flags, found, ingress=self._ingress)]]

    def _changes(self, policy: Policy, found: Installed, *, keep_rules: bool) -> list[nf.Message]:
        """What makes sets, chains and rules those of the policy; chains that it does not have stay."""
        messages = []
        for name, ports in text.port_sets(policy).items():
            old, new = set(found.sets[name]), set(merged(ports))
            messages += nf.change_elements(self._table, name, sorted(old - new), add=False)
            messages += nf.change_elements(self._table, name, sorted(new - old), add=True)
        if not keep_rules:
            for chain, hook in hooks_of(policy, ingress=self._ingress).items():
                if chain in found.hooks:
                    messages += [nf.delete_rules(self._table, chain)]
                else:
                    messages += [nf.new_chain(self._table, chain, hook.priority, hook.device)]
            messages += _rules(policy, found, ingress=self._ingress)
        return messages

    def _read_generation(self) -> int:
        generation = self._netlink.get(nf.get_generation())
        return int(generation.get_attr("NFTA_GEN_ID")) if generation else -1

    def _close(self) -> None:
        self._released = True
        self._netlink.close()
        self._events.close()


def _whole_table(policy: Policy, flags: int, before: Installed | None = None, *, ingress: bool) -> list[nf.Message]:
    table = text.TABLE_PREFIX + policy.name
    messages = [nf.new_table(table, flags)]
    for set_id, (name, ports) in enumerate(text.port_sets(policy).items(), 1):
        messages += [nf.new_set(table, name, set_id), *nf.change_elements(table, name, list(merged(ports)), add=True)]
    for chain, hook in hooks_of(policy, ingress=ingress).items():
        messages += [nf.new_chain(table, chain, hook.priority, hook.device)]
    return messages + _rules(policy, before, ingress=ingress)


def _rules(policy: Policy, before: Installed | None, *, ingress: bool) -> list[nf.Message]:
    """``before``: what these rules replace.  The first rule of each chain starts from what was counted there."""
    table = text.TABLE_PREFIX + policy.name
    messages = []
    for chain, drops in text.chains(policy, ingress=ingress).items():
        start = (0, 0)
        if before is not None:
            start = before.counted[2:] if chain == "output" else before.counted[:2]
        device = text.named_in_rules(policy, chain)
        for drop in drops:
            messages.append(nf.new_rule(table, chain, drop, device, text.COMMENTS[chain], start))
            start = (0, 0)
    return messages


def _counters(netlink: NfSocket, table: str) -> Counters:
    found = count(netlink, table)
    if found is None:
        raise FirewallError(f"there is no rule in a table inet {table}")
    return found


def _refusal(netlink: NfSocket, messages: list[nf.Message]) -> Refused:
    try:
        netlink.commit(messages)
    except Refused as refused:
        return refused
    raise AssertionError("a batch that deletes a table that does not exist was accepted")


def _index_of(device: str | None) -> int | None:
    """None = there is no such device, or none is asked for."""
    try:
        return socket.if_nametoindex(device) if device is not None else None
    except OSError:
        return None


def _explained(refused: Refused, policy: Policy) -> FirewallError:
    if refused.index < 0 and refused.code == errno.EPERM:
        return unprivileged()
    if refused.index < 0 and refused.code in (errno.EOPNOTSUPP, errno.EINVAL):
        return FirewallError(f"this kernel has no nf_tables ({os.strerror(refused.code)}); try: modprobe nf_tables")
    if refused.code == errno.EPERM:
        return _live_owner(policy.name)
    device = f" on device {policy.device}" if policy.device else ""
    return FirewallError(f"nftables refused the rules of instance {policy.name}{device}: {refused}")


def _live_owner(name: str) -> FirewallError:
    table = text.TABLE_PREFIX + name
    return FirewallError(
        f"another rsock-nf instance named {name} holds table inet {table}: stop it, or choose another name"
    )


def _foreign(table: str) -> FirewallError:
    return FirewallError(
        f"table inet {table} has rules that rsock-nf did not write; if nobody needs them: nft delete table inet {table}"
    )
