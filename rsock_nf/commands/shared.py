"""What several commands share: arguments, the configuration file, the instances that are meant."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from rsock_nf.commands.output import PROGRAM, complain
from rsock_nf.config.places import config_dir, file_for, files_of, is_path
from rsock_nf.errors import ConfigError, InstanceError, UsageError

if TYPE_CHECKING:
    from rsock_nf.config.configuration import Configuration
    from rsock_nf.ops.instances.instance import Instance


def config_argument(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """``FILE|NAME``, or ``--config FILE``.  ``required``: the command wants one of them (``required_file``)."""
    which = parser.add_mutually_exclusive_group()
    text = f"the configuration file, or the name of one in {config_dir()}"
    _add_word(which, text if required else f"{text}; nothing: what concerns every tunnel")
    _add_config(which)


def instance_arguments(
    parser: argparse.ArgumentParser, nothing: str = "all instances", *, options: tuple[str, ...] = ("-c", "--config")
) -> None:
    """``NAME|FILE``, ``--config FILE`` or ``--name NAME``.  ``nothing``: what is meant if nothing is said."""
    which = parser.add_mutually_exclusive_group()
    _add_word(which, f"the instance, or its configuration file; nothing: {nothing}")
    _add_config(which, options)
    which.add_argument("-n", "--name", help="the instance's name")


def _add_word(which: argparse._MutuallyExclusiveGroup, text: str) -> None:
    which.add_argument("word", nargs="?", metavar="FILE|NAME", help=text)


def _add_config(which: argparse._MutuallyExclusiveGroup, options: tuple[str, ...] = ("-c", "--config")) -> None:
    which.add_argument(*options, type=Path, metavar="FILE", help="the configuration file")


def config_file(arguments: argparse.Namespace) -> Path | None:
    """The configuration file that the arguments mean; None = they name none.  Raises ``UsageError``."""
    if arguments.config is not None:
        return Path(arguments.config)
    return None if arguments.word is None else file_for(arguments.word)


def file_by_path(arguments: argparse.Namespace) -> Path | None:
    """The configuration file that is named by its path, and not by its name alone; None = none is."""
    word = arguments.word
    return Path(arguments.config or word) if arguments.config or (word and is_path(word)) else None


def required_file(arguments: argparse.Namespace) -> Path:
    """As ``config_file``; that there is none is a ``UsageError``, too."""
    path = config_file(arguments)
    if path is None:
        command = f"{PROGRAM} {arguments.command}"
        raise UsageError(f"which tunnel? `{command} FILE`, or `{command} NAME` for {config_dir()}/NAME.json")
    return path


def loaded(path: Path, *, warn: bool = True, patient: bool = False) -> Configuration:
    """The configuration of that file; with ``warn`` its warnings are told.  Raises ``ConfigurationError``."""
    from rsock_nf import config

    configuration = config.load(path, patient=patient)
    if warn:
        tell(configuration)
    return configuration


def tell(configuration: Configuration) -> None:
    """On standard error: how the original's configuration was understood, and what should be known."""
    for line in configuration.notes:
        complain(line)
    for line in configuration.warnings:
        complain(f"warning: {line}")


def named_instance(arguments: argparse.Namespace) -> Instance | None:
    """The instance that the arguments name; None = they name none.  Raises ``UsageError``, ``InstanceError``."""
    from rsock_nf.ops.instances.instance import Instance

    if arguments.config or (arguments.word and is_path(arguments.word)):
        from rsock_nf.ops.launch import name_of

        return Instance(name_of(arguments.config or file_for(arguments.word)))
    option, word = ("", arguments.word) if arguments.word is not None else ("--name: ", arguments.name)
    if word is None:
        return None
    from rsock_nf.config.values import parse_name

    try:
        instance = Instance(parse_name(word))
    except ValueError as error:
        raise InstanceError(f"{option}{error}") from None
    return instance if option else _named_by_file(instance)


def _named_by_file(instance: Instance) -> Instance:
    """What a bare name means: the instance of that name, or that of the file with it, which may say another ``name``.

    Raises ``UsageError`` when these are two.
    """
    from rsock_nf.ops.instances.instance import Instance
    from rsock_nf.ops.launch import name_of

    named = set()
    for path in files_of(instance.name):
        with contextlib.suppress(ConfigError):  # of a broken file: `down` and `status` have to go on
            named.add(name_of(path))
    if not named or instance.name in named:
        return instance
    if instance.exists() or len(named) > 1:
        others = " and ".join(sorted(named))
        raise UsageError(f"{instance.name}: that is an instance, and a file of the instance {others}: say --name")
    return Instance(named.pop())


def require_privileges(command: str, remark: str = "", *, backend: str = "auto") -> None:
    """Raises ``InstanceError``: what this process lacks for ``command``."""
    from rsock_nf.ops.privileges import refusal

    reason = refusal(command, backend)
    if reason:
        raise InstanceError(f"{reason}; {remark}" if remark else reason)


def number(text: str, what: str, least: float, most: float, *, whole: bool = False) -> float:
    """An argument between ``least`` and ``most``, both allowed; ``what`` it counts.  Raises ``ArgumentTypeError``."""
    try:
        value = float(int(text)) if whole else float(text)
    except ValueError:
        value = -1.0
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of {what} ({least:g}-{most:g})")
    return value
