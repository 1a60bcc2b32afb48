"""The command line: parses, calls, prints.  What the commands do is in ``ops``, ``config`` and ``daemon``.

Everything heavy is imported by the command that needs it, so that ``--help`` and ``status`` feel instant.
Exit status: 0 done, 1 it cannot be done on this host now (``status``: not everything that is shown runs; ``doctor``:
something is in the way), 2 wrong arguments or configuration (nothing was touched), 128 + a signal that ended it (130: Ctrl-C;
``up --foreground`` ends so in order: 0).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rsock_nf import __version__
from rsock_nf.errors import InstanceError, RsockError, TunnelError
from rsock_nf.ops import original_flags

if TYPE_CHECKING:
    from rsock_nf.config import Configuration
    from rsock_nf.ops.instance import Instance

PROGRAM = "rsock-nf"
_TIMEOUT = 15.0
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    parser, commands = _parser()
    arguments, extra = parser.parse_known_args(argv)
    if extra and arguments.command != "demo":
        commands[arguments.command].error(f"unrecognized arguments: {' '.join(extra)}")
    arguments.extra = extra
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # `rsock-nf status | head`: who reads us has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except RsockError as error:
        _complain(str(error))
        return error.exit_code
    except Exception as error:
        if os.environ.get("RSOCK_NF_DEBUG") == "1":
            raise
        _complain(f"unexpected {type(error).__name__}: {error} (RSOCK_NF_DEBUG=1 shows where)")
        return 1
    else:
        return status


def _complain(line: str) -> None:
    print(f"{PROGRAM}: {' '.join(line.split())}", file=sys.stderr)


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Carry an application's UDP inside many fake-TCP flows that the kernel never sees."
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], text: str, *, add_help: bool = True
    ) -> argparse.ArgumentParser:
        described = f"{text[:1].upper()}{text[1:]}."
        made = subparsers.add_parser(name, help=text, description=described, add_help=add_help)
        made.set_defaults(run=run)
        return made

    _add_up_arguments(command("up", _up, "install the rules and start an instance; returns once it stands"))
    for role in ("server", "client"):
        text = f"start a {role} by the flags, or with -f by a file, of the original rsock"
        original_flags.add_flags(command(role, _original, text), role)

    down = command("down", _down, "stop an instance (default: every one) and remove its rules, also after a crash")
    _instance_arguments(down)
    status = command("status", _status, "show sessions, flows, conversations, loss, RTT, MTU and counters")
    _instance_arguments(status)
    status.add_argument(
        "--json", action="store_true", help="for programs: a list, or one object if an instance is named"
    )
    status.add_argument("--watch", action="store_true", help="again every second, with rates")
    _config_argument(command("check", _check, "validate a configuration file"), required=True)
    _config_argument(command("rules", _rules, "print the exact firewall rules, touch nothing"), required=True)
    convert = command("convert", _convert, "print a configuration of the original rsock as ours")
    convert.add_argument("file", type=Path, metavar="FILE", help="its JSON file")
    command("genkey", _genkey, "make a secret")
    command("schema", _schema, "print the JSON schema of the configuration file")
    _config_argument(command("doctor", _doctor, "check whether this host can run a tunnel"), required=False)
    _instance_arguments(command("reconnect", _reconnect, "dial every flow of a client anew"))
    # The demonstration parses its own options, --help among them.
    command("demo", _demo, "show the tunnel at work in network namespaces (as root)", add_help=False)
    return parser, subparsers.choices


def _add_up_arguments(parser: argparse.ArgumentParser) -> None:
    _config_argument(parser, required=True)
    parser.add_argument(
        "--foreground", action="store_true", help="stay, log to standard error, and keep dialling until it stands"
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        metavar="SECONDS",
        help="undo everything and fail unless it stands after so long "
        f"(default {_TIMEOUT:g}; with --foreground: no limit)",
    )
    parser.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)  # how the background process is started


def _config_argument(parser: argparse.ArgumentParser | argparse._MutuallyExclusiveGroup, *, required: bool) -> None:
    parser.add_argument("-c", "--config", type=Path, required=required, metavar="FILE", help="the configuration file")


def _instance_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    _config_argument(which, required=False)
    which.add_argument("-n", "--name", help="the instance's name")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds (0-3600)")
    return value


# -- starting and stopping


def _up(arguments: argparse.Namespace) -> int:
    if arguments.ready_fd is not None:
        return _be_in_background(arguments.ready_fd)
    from rsock_nf.ops import launch

    configuration = _loaded(arguments.config, warn=not arguments.foreground)  # in the foreground the log has them
    return _start(arguments, configuration, launch.background_command(configuration.settings.path))


def _original(arguments: argparse.Namespace) -> int:
    """``server`` and ``client``: the original's two programs."""
    if arguments.ready_fd is not None:
        return _be_in_background(arguments.ready_fd)
    from rsock_nf import config

    role = arguments.command
    if arguments.file:
        configuration = config.load(arguments.file, role)
        command = original_flags.file_command(arguments.file, role)
        for flag in original_flags.given(arguments):
            _complain(f"{flag}: has no meaning beside -f")
    else:
        configuration = config.from_flags(role, original_flags.to_json(arguments, role))
        command = original_flags.flags_command(configuration.settings.name, role)
    arguments.foreground = configuration.foreground
    if not arguments.foreground:
        _tell(configuration)
    name = configuration.settings.name
    which = f"`{PROGRAM} status --name {name}` shows it, `{PROGRAM} down --name {name}` stops it"
    return _start(arguments, configuration, command, which)


def _be_in_background(ready_fd: int) -> int:
    """Be the instance that ``launch.start`` has started: its parent has read the configuration."""
    from rsock_nf import daemon
    from rsock_nf.ops import handover

    return daemon.run(handover.receive(sys.stdin.buffer), ready_fd=ready_fd)


def _start(arguments: argparse.Namespace, configuration: Configuration, command: list[str], remark: str = "") -> int:
    """Be the instance, or start it by ``command`` in the background and say so, with a ``remark``; the exit status."""
    settings = configuration.settings
    from rsock_nf.ops import launch
    from rsock_nf.policy import fake_tcp_ports

    if fake_tcp_ports(settings):
        from rsock_nf.ops.privileges import WITHOUT

        _require_privileges(arguments.command, WITHOUT)

    ending = f"; {remark}" if remark else ""
    already = f"{settings.name}: is already running with this configuration{ending}"
    alike = launch.running_alike(settings)
    if alike and not arguments.foreground:
        print(already)
        return 0
    if arguments.foreground:
        from rsock_nf import daemon

        return daemon.run(configuration, timeout=arguments.timeout)
    from rsock_nf.ops.leftovers import clear_rules

    try:
        launch.start(configuration, command, timeout=arguments.timeout or _TIMEOUT, clear=clear_rules)
    except TunnelError:
        if not launch.running_alike(settings):
            raise
        print(already)  # by another `up` at the same moment
        return 0
    print(f"{settings.name}: up{ending}")
    return 0


def _down(arguments: argparse.Namespace) -> int:
    named = _named(arguments)
    from rsock_nf.ops import launch, privileges
    from rsock_nf.ops.holder import lost_holders, run_dir
    from rsock_nf.ops.instance import Instance, instances
    from rsock_nf.ops.leftovers import clear_all_rules, clear_rules

    if named:
        found = [named.name]
    else:
        found = sorted({instance.name for instance in instances()} | {lost.name for lost in lost_holders()})
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
            print(launch.stop(name, (lambda _: []) if unprivileged else clear_rules, unseen=unseen))
        except InstanceError as error:
            if named:
                raise
            _complain(str(error))
            failed = True
    if named:
        return 0
    orphans = [] if unprivileged else clear_all_rules()
    for name in orphans:
        print(f"{name}: was not running; removed the rules that it left")
    if not found and not orphans:
        print(f"nothing was running{unseen}")
    return 1 if failed else 0


def _reconnect(arguments: argparse.Namespace) -> int:
    from rsock_nf.ops.control import ask

    named = _named(arguments)
    dialling = [instance.name for instance in _running(named) if ask(instance, "reconnect")["dials"]]
    if not dialling:
        raise InstanceError(f"instance {named.name} is a server: it does not dial" if named else "no client is running")
    for name in dialling:
        print(f"{name}: dials anew")
    return 0


# -- looking


def _status(arguments: argparse.Namespace) -> int:
    import json
    import time

    from rsock_nf.ops.status import Snapshot, render
    from rsock_nf.ops.survey import runs, survey

    before: dict[str, Snapshot] = {}
    named = _named(arguments)
    while True:
        found = survey(named, find_lost=not before)
        well = bool(found) and all(map(runs, found))
        if arguments.json:
            print(json.dumps(found[0] if named else found, indent=None if arguments.watch else 2))
        elif not found:
            _complain("no instance is running")
        elif named and found[0]["state"] == "down":
            _complain(found[0]["reason"])
        else:
            if arguments.watch and sys.stdout.isatty():
                print("\x1b[H\x1b[J", end="")
            print("\n\n".join(render(snapshot, before.get(snapshot["name"])) for snapshot in found))
        if not (arguments.watch and any(map(runs, found))):
            return 0 if well else 1
        before = {snapshot["name"]: snapshot for snapshot in found}
        sys.stdout.flush()
        time.sleep(1)


def _check(arguments: argparse.Namespace) -> int:
    settings = _loaded(arguments.config).settings
    print(f"{settings.path}: valid; instance {settings.name}")
    return 0


def _rules(arguments: argparse.Namespace) -> int:
    from rsock_nf.ops.rules import rules_for

    print(rules_for(_loaded(arguments.config, warn=False).settings).rstrip("\n"))
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from rsock_nf.ops import doctor

    findings = doctor.examine(_loaded(arguments.config, warn=False).settings if arguments.config else None)
    for finding in findings:
        print(finding)
    return 1 if any(finding.verdict is doctor.Verdict.FAIL for finding in findings) else 0


def _demo(arguments: argparse.Namespace) -> int:
    from rsock_nf.lab.demo import main as demo

    return demo(arguments.extra)


# -- making


def _convert(arguments: argparse.Namespace) -> int:
    import json

    from rsock_nf import config

    keys, notes = config.convert(arguments.file)
    for line in notes:
        _complain(line)
    print(json.dumps(keys, indent=2, ensure_ascii=False))
    return 0


def _genkey(_: argparse.Namespace) -> int:
    from rsock_nf.config.values import SECRET_BYTES, format_secret

    print(format_secret(os.urandom(SECRET_BYTES)))
    return 0


def _schema(_: argparse.Namespace) -> int:
    import json

    from rsock_nf import config

    print(json.dumps(config.schema(), indent=2))
    return 0


# -- what the commands share


def _loaded(path: Path, *, warn: bool = True) -> Configuration:
    from rsock_nf import config

    configuration = config.load(path)
    if warn:
        _tell(configuration)
    return configuration


def _tell(configuration: Configuration) -> None:
    """On standard error: how the original's configuration was understood, and what should be known."""
    for line in configuration.notes:
        _complain(line)
    for line in configuration.warnings:
        _complain(f"warning: {line}")


def _require_privileges(command: str, remark: str = "") -> None:
    from rsock_nf.ops.privileges import refusal

    reason = refusal(command)
    if reason:
        raise InstanceError(f"{reason}; {remark}" if remark else reason)


def _without_rules(instance: Instance) -> bool:
    """Of a user who may not change rules: it is theirs, hence has none (``type: udp``), or there is nothing to see of it."""
    try:
        return instance.directory.stat().st_uid == os.geteuid()
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _named(arguments: argparse.Namespace) -> Instance | None:
    """The instance that the arguments name; None = they name none."""
    from rsock_nf.ops.instance import Instance

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
    from rsock_nf.ops.instance import instances

    found = [instance for instance in ([named] if named else instances()) if instance.is_running()]
    if not found:
        raise InstanceError(f"instance {named.name} is not running" if named else "no instance is running")
    return found
