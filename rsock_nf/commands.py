"""What each command does: calls ``config``, ``daemon`` and ``ops``, prints, and returns the exit status.

Everything heavy is imported by the command that needs it, so that ``status`` feels instant.
Not here: what a command line looks like (``cli``).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rsock_nf.errors import InstanceError, TunnelError, UnresolvedError
from rsock_nf.printable import printable

if TYPE_CHECKING:
    from rsock_nf.config.configuration import Configuration
    from rsock_nf.ops.instances.instance import Instance
    from rsock_nf.settings import Settings

PROGRAM = "rsock-nf"
TIMEOUT = 15.0
"""Seconds after which ``up`` gives up."""


def complain(line: str) -> None:
    """One line on standard error."""
    print(f"{PROGRAM}: {printable(' '.join(line.split()))}", file=sys.stderr)


def say(text: object) -> None:
    """Lines on standard output."""
    print(printable(str(text), keep="\n\t"))


# -- starting and stopping


def up(arguments: argparse.Namespace) -> int:
    """Start an instance of a configuration file."""
    if arguments.ready_fd is not None:
        return _be_in_background(arguments.ready_fd, wait=arguments.wait)
    from rsock_nf.ops import launch

    patient = arguments.foreground or arguments.wait
    try:
        configuration = _loaded(
            arguments.config, warn=not arguments.foreground, patient=patient
        )  # else the log has them
    except UnresolvedError as error:
        raise InstanceError(f"{error}; `{PROGRAM} up --wait` waits for it") from None
    command = launch.background_command(configuration.settings.path, wait=arguments.wait)
    return _start(arguments, configuration, command)


def original(arguments: argparse.Namespace) -> int:
    """``server`` and ``client``: start an instance as the original's two programs do."""
    if arguments.ready_fd is not None:
        return _be_in_background(arguments.ready_fd)
    from rsock_nf import config
    from rsock_nf.ops import original_flags

    role = arguments.command
    if arguments.file:
        configuration = config.load(arguments.file, role)
        command = original_flags.file_command(arguments.file, role)
        for flag in original_flags.given(arguments):
            complain(f"{flag}: has no meaning beside -f")
    else:
        configuration = config.from_flags(role, original_flags.to_json(arguments, role))
        command = original_flags.flags_command(configuration.settings.name, role)
    arguments.foreground = configuration.foreground
    if not arguments.foreground:
        _tell(configuration)
    name = configuration.settings.name
    which = f"`{PROGRAM} status --name {name}` shows it, `{PROGRAM} down --name {name}` stops it"
    return _start(arguments, configuration, command, which)


def _be_in_background(ready_fd: int, *, wait: bool = False) -> int:
    """Be the instance that ``launch.start`` has started: its parent has read the configuration."""
    from rsock_nf import daemon
    from rsock_nf.ops import handover
    from rsock_nf.ops.confinement import confine

    return daemon.run(handover.receive(sys.stdin.buffer), wait=wait, ready_fd=ready_fd, confine=confine)


def _start(arguments: argparse.Namespace, configuration: Configuration, command: list[str], remark: str = "") -> int:
    """Be the instance, or start it by ``command`` in the background and say so, with a ``remark``; the exit status."""
    settings = configuration.settings
    from rsock_nf.ops import launch
    from rsock_nf.policy import fake_tcp_ports

    if fake_tcp_ports(settings):
        from rsock_nf.ops.privileges import WITHOUT

        _require_privileges(arguments.command, WITHOUT, backend=settings.backend)
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

    _warn_of_host(settings)
    try:
        wait = getattr(arguments, "wait", False)  # the original's commands have no such option
        timeout = arguments.timeout or (None if wait else TIMEOUT)
        launch.start(configuration, command, timeout=timeout, clear=clear_rules, tell=complain)
    except TunnelError:
        if not launch.running_alike(settings):
            raise
        say(already)  # by another `up` at the same moment
        return 0
    say(f"{settings.name}: up{ending}")
    return 0


def down(arguments: argparse.Namespace) -> int:
    """Stop one instance or all, and remove what dead ones left."""
    named = _named(arguments)
    from rsock_nf.ops import launch, privileges
    from rsock_nf.ops.instances.instance import Instance, instances
    from rsock_nf.ops.instances.leftovers import clear_all_rules, clear_rules
    from rsock_nf.ops.instances.processes import lost_processes
    from rsock_nf.ops.instances.run_directory import run_dir

    if named:
        found = [named.name]
    else:
        found = sorted({instance.name for instance in instances()} | {lost.name for lost in lost_processes()})
    missing = privileges.missing()
    unprivileged = bool(missing) and all(_without_rules(Instance(name)) for name in found)
    unseen = ""
    if unprivileged:
        unseen = f" (as far as {run_dir()} tells; rules left over can be seen only with {' and '.join(missing)})"
    else:
        _require_privileges("down")
    failed = False
    for name in found:
        try:
            say(launch.stop(name, (lambda _: []) if unprivileged else clear_rules, unseen=unseen))
        except InstanceError as error:
            if named:
                raise
            complain(str(error))
            failed = True
    if named:
        return 0
    orphans = [] if unprivileged else clear_all_rules()
    for name in orphans:
        say(f"{name}: was not running; removed the rules that it left")
    if not found and not orphans:
        say(f"nothing was running{unseen}")
    return 1 if failed else 0


def reconnect(arguments: argparse.Namespace) -> int:
    """Have one client or all replace every flow, without loss."""
    from rsock_nf.ops.control_socket.ask import ask

    named = _named(arguments)
    dialling = [instance.name for instance in _running(named) if ask(instance, "reconnect")["dials"]]
    if not dialling:
        raise InstanceError(f"instance {named.name} is a server: it does not dial" if named else "no client is running")
    for name in dialling:
        say(f"{name}: renews its flows")
    return 0


# -- looking


def status(arguments: argparse.Namespace) -> int:
    """Show one instance or all, once or again and again."""
    import json
    import time

    from rsock_nf.ops.instances.overview import overview, runs
    from rsock_nf.ops.status import Snapshot, render

    before: dict[str, Snapshot] = {}
    named = _named(arguments)
    while True:
        found = overview(named, find_lost=not before)
        well = bool(found) and all(map(runs, found))
        if arguments.json:
            say(json.dumps(found[0] if named else found, indent=None if arguments.watch else 2))
        elif not found:
            complain("no instance is running")
        elif named and found[0]["state"] == "down":
            complain(found[0]["reason"])
        else:
            if arguments.watch and sys.stdout.isatty():
                print("\x1b[H\x1b[J", end="")
            say("\n\n".join(render(snapshot, before.get(snapshot["name"])) for snapshot in found))
        if not (arguments.watch and any(map(runs, found))):
            return 0 if well else 1
        before = {snapshot["name"]: snapshot for snapshot in found}
        sys.stdout.flush()
        time.sleep(1)


def check(arguments: argparse.Namespace) -> int:
    """Validate a configuration file."""
    if arguments.print_log:
        return _print_log(arguments.config)
    settings = _loaded(arguments.config).settings
    say(f"{settings.path}: valid; instance {settings.name}")
    return 0


def _print_log(path: Path) -> int:
    """For a running instance (``ops.handover``)."""
    import json

    from rsock_nf import config

    log = config.load_log(path)
    say(json.dumps({"level": log.level, "file": str(log.file) if log.file else None}))
    return 0


def rules(arguments: argparse.Namespace) -> int:
    """Print the firewall rules of an instance."""
    from rsock_nf.ops.rules import rules_for

    say(rules_for(_loaded(arguments.config, warn=False).settings).rstrip("\n"))
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """Print what was found out about this host."""
    from rsock_nf.ops import doctor

    findings = doctor.examine(_loaded(arguments.config, warn=False).settings if arguments.config else None)
    for finding in findings:
        say(finding)
    return 1 if any(finding.verdict is doctor.Verdict.FAIL for finding in findings) else 0


def demo(arguments: argparse.Namespace) -> int:
    """The demonstration."""
    from rsock_nf.lab.demo import main

    return main(arguments.extra)


# -- making


def convert(arguments: argparse.Namespace) -> int:
    """Print a file of the original as ours."""
    import json

    from rsock_nf import config

    keys, notes = config.convert(arguments.file)
    for line in notes:
        complain(line)
    say(json.dumps(keys, indent=2))
    return 0


def genkey(_: argparse.Namespace) -> int:
    """Print a new secret."""
    from rsock_nf.config.values import SECRET_BYTES, format_secret

    say(format_secret(os.urandom(SECRET_BYTES)))
    return 0


def schema(_: argparse.Namespace) -> int:
    """Print the JSON schema."""
    import json

    from rsock_nf import config

    say(json.dumps(config.schema(), indent=2))
    return 0


# -- what the commands share


def _loaded(path: Path, *, warn: bool = True, patient: bool = False) -> Configuration:
    from rsock_nf import config

    configuration = config.load(path, patient=patient)
    if warn:
        _tell(configuration)
    return configuration


def _tell(configuration: Configuration) -> None:
    """On standard error: how the original's configuration was understood, and what should be known."""
    for line in configuration.notes:
        complain(line)
    for line in configuration.warnings:
        complain(f"warning: {line}")


def _warn_of_host(settings: Settings) -> None:
    """On standard error: what of this host may be in the way.  The instance's log has the same lines."""
    from rsock_nf.link import system
    from rsock_nf.link.port_use import overlap_warning
    from rsock_nf.policy import served_ports

    if warning := overlap_warning(served_ports(settings), system()):
        complain(f"warning: {warning}")


def _require_privileges(command: str, remark: str = "", *, backend: str = "auto") -> None:
    from rsock_nf.ops.privileges import refusal

    reason = refusal(command, backend)
    if reason:
        raise InstanceError(f"{reason}; {remark}" if remark else reason)


def _without_rules(instance: Instance) -> bool:
    """Whether an unprivileged user may end it: it is theirs, so it has no rules (``type: udp``, ``backend: manual``),
    or nothing is left."""
    try:
        return instance.is_own()
    except InstanceError:
        return False


def _named(arguments: argparse.Namespace) -> Instance | None:
    """The instance that the arguments name; None = they name none."""
    from rsock_nf.ops.instances.instance import Instance

    if arguments.config:
        from rsock_nf.ops.launch import name_of

        return Instance(name_of(arguments.config))
    if arguments.name is None:
        return None
    from rsock_nf.config.values import parse_name

    try:
        return Instance(parse_name(arguments.name))
    except ValueError as error:
        raise InstanceError(f"--name: {error}") from None


def _running(named: Instance | None) -> list[Instance]:
    """The named instance, or all that run.  Raises ``InstanceError`` when there is none."""
    from rsock_nf.ops.instances.instance import instances

    found = [instance for instance in ([named] if named else instances()) if instance.is_running()]
    if not found:
        raise InstanceError(f"instance {named.name} is not running" if named else "no instance is running")
    return found
