"""How an instance is started: by ``up``, and by the original's two commands."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from rsock_nf.commands.live_line import LiveLine
from rsock_nf.commands.output import complain, say
from rsock_nf.commands.shared import require_privileges
from rsock_nf.errors import InstanceError, TunnelError

if TYPE_CHECKING:
    from rsock_nf.config.configuration import Configuration
    from rsock_nf.settings import Settings

TIMEOUT: Final = 15.0
"""Seconds after which ``up`` gives up."""


def be_in_background(ready_fd: int, *, wait: bool = False) -> int:
    """Be the instance that ``launch.start`` has started: its parent has read the configuration."""
    from rsock_nf import daemon
    from rsock_nf.ops import handover
    from rsock_nf.ops.confinement import confine

    return daemon.run(handover.receive(sys.stdin.buffer), wait=wait, ready_fd=ready_fd, confine=confine)


def start(arguments: argparse.Namespace, configuration: Configuration, command: list[str], remark: str = "") -> int:
    """Be the instance, or start it by ``command`` in the background and say so, with a ``remark``; the exit status."""
    settings = configuration.settings
    from rsock_nf.ops import launch
    from rsock_nf.policy import fake_tcp_ports

    if fake_tcp_ports(settings):
        from rsock_nf.ops.privileges import WITHOUT

        require_privileges(arguments.command, WITHOUT, backend=settings.backend)
    if settings.user is not None:
        from rsock_nf.ops.privileges import refusal_of_user

        if reason := refusal_of_user(settings):
            raise InstanceError(reason)

    ending = f"; {remark}" if remark else ""
    already = f"{settings.name}: is already running with this configuration{ending}"
    alike = launch.running_alike(settings)
    if alike and not arguments.foreground:
        say(already)
        return 0
    if arguments.foreground:
        from rsock_nf import daemon
        from rsock_nf.ops.confinement import confine

        return daemon.run(configuration, timeout=arguments.timeout, wait=True, confine=confine)
    from rsock_nf.ops.instances.leftovers import clear_rules
    from rsock_nf.ops.standing import summary

    _warn_of_host(settings)
    wait = getattr(arguments, "wait", False)  # the original's commands have no such option
    timeout = arguments.timeout or (None if wait else TIMEOUT)
    began = time.monotonic()
    try:
        with LiveLine() as line:

            def watch(status: dict[str, Any]) -> None:
                what = status.get("reason") or status.get("state") or "starting"
                line.show(f"{settings.name}: {time.monotonic() - began:.0f} s: {what}")

            def tell(text: str) -> None:
                line.clear()
                complain(text)

            launch.start(
                configuration, command, timeout=timeout, clear=clear_rules, tell=tell, patient=wait, watch=watch
            )
            line.show(f"{settings.name}: up")
            told = summary(settings)
    except TunnelError:
        if not launch.running_alike(settings):
            raise
        say(already)  # by another `up` at the same moment
        return 0
    say(f"{settings.name}: {told}{ending}")
    return 0


def _warn_of_host(settings: Settings) -> None:
    """On standard error: what of this host may be in the way.  The instance's log has the same lines."""
    from rsock_nf.link import system
    from rsock_nf.link.port_use import overlap_warning
    from rsock_nf.policy import served_ports

    if warning := overlap_warning(served_ports(settings), system()):
        complain(f"warning: {warning}")
