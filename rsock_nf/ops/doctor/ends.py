"""Where applications and targets are: whether ``listen`` is free, and whether somebody listens at each target."""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rsock_nf.core.parameters import ClientParameters, ServerParameters
from rsock_nf.core.types import TransportAddress
from rsock_nf.link import LinkError, own_addresses, system
from rsock_nf.link.checks import Finding, Verdict
from rsock_nf.link.sockaddr import to_socket_address
from rsock_nf.ops.doctor import running
from rsock_nf.settings import NO_ADDRESS, Settings
from rsock_nf.words import NOBODY_LISTENS

_PATIENCE = 0.5
"""Seconds in which a target may refuse."""


def examine(settings: Settings) -> Iterator[Finding]:
    """Of a client its local ends, of a server its targets; of both the addresses of this host."""
    yield from _addresses(settings)
    if isinstance(settings.tunnel, ClientParameters):
        yield from _listen(settings)
        return
    tunnels = [tunnel for tunnel in settings.tunnels if isinstance(tunnel, ServerParameters)]
    yield from _targets([target for tunnel in tunnels for target in tunnel.targets])


def _addresses(settings: Settings) -> Iterator[Finding]:
    try:
        present = own_addresses(settings.device)
    except LinkError:  # the device's own finding says it
        return
    where = f"device {settings.device}" if settings.device else "this host"
    for address in settings.addresses:
        if address in present or address.is_loopback or address.is_link_local:
            continue
        listed = ", ".join(map(str, present)) or "none"
        text = f"{address} is not an address of {where}"
        if isinstance(settings.tunnel, ClientParameters):
            yield Finding(Verdict.FAIL, "addresses", f"{text}; it has {listed}", 'correct "addresses", or leave it out')
        else:
            text = f"{text}: only what is routed here for it is served (behind a NAT, packets have the address inside)"
            yield Finding(Verdict.WARN, "addresses", f"{text}; it has {listed}", 'correct "addresses", unless it is so')


def _listen(settings: Settings) -> Iterator[Finding]:
    from rsock_nf.sockets import unix_path
    from rsock_nf.sockets.datagrams import Listener

    if running.own(settings) is not None:
        ends = ", ".join(map(_named, settings.listen))
        yield Finding(Verdict.OK, "listen", f"{ends}: held by this instance, which is running")
        return
    for end in settings.listen:
        try:
            if isinstance(end, Path):
                unix_path.check(end, directory=_is_this_user(settings.user))
            else:
                Listener(end).close()
        except LinkError as error:
            # What a file of that name needs is said.
            remedy = "" if isinstance(end, Path) else 'stop who has it, or correct "listen"'
            yield Finding(Verdict.FAIL, "listen", str(error), remedy)
        else:
            yield Finding(Verdict.OK, "listen", f"{_named(end)} is free")


def _is_this_user(name: str | None) -> bool:
    """Whether the instance would listen as the user that we are."""
    with contextlib.suppress(KeyError):  # ``up`` says that there is no such user
        return name is None or pwd.getpwnam(name).pw_uid == os.geteuid()
    return False


def _named(end: TransportAddress | Path) -> str:
    return f"unix:{end}" if isinstance(end, Path) else str(end)


def _targets(targets: Sequence[TransportAddress]) -> Iterator[Finding]:
    """An empty datagram goes to each: only an ICMP message that refuses it tells anything."""
    with contextlib.ExitStack() as stack:
        asked: dict[TransportAddress, socket.socket | str] = {}
        for target in targets:
            if target.address != NO_ADDRESS:
                asked[target] = _ask(target, stack)
        end = time.monotonic() + _PATIENCE
        waiting = {one: target for target, one in asked.items() if isinstance(one, socket.socket)}
        while waiting and (left := end - time.monotonic()) > 0:
            readable, _, _ = select.select(list(waiting), [], [], left)
            for one in readable:
                target = waiting.pop(one)
                try:
                    one.recv(1)
                except OSError as error:
                    asked[target] = NOBODY_LISTENS if isinstance(error, ConnectionRefusedError) else str(error.strerror)
    for target, said in asked.items():
        if isinstance(said, str):
            who = system().remedies.udp_port.format(port=target.port)
            remedy = f'start the application\'s server, or correct "target"; `{who}` shows who listens'
            # The tunnel stands without it, and the application may come later.
            yield Finding(Verdict.WARN, "target", f"{target}: {said}", remedy)
        else:
            yield Finding(Verdict.OK, "target", f"{target} does not refuse datagrams (UDP tells no more)")


def _ask(target: TransportAddress, stack: contextlib.ExitStack) -> socket.socket | str:
    """Send it an empty datagram: the socket on which a refusal comes, or why that failed."""
    family = socket.AF_INET6 if target.address.version == 6 else socket.AF_INET
    try:
        sock = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        sock.setblocking(False)
        sock.connect(to_socket_address(target))
        sock.send(b"")
    except OSError as error:
        return NOBODY_LISTENS if isinstance(error, ConnectionRefusedError) else str(error.strerror or error)
    return sock
