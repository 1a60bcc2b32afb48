"""``reload``: running instances follow their files, without ``down``."""

from __future__ import annotations

import argparse
from pathlib import Path

from rsock_nf.commands.output import complain, say
from rsock_nf.commands.shared import instance_arguments, named_instance, tell
from rsock_nf.errors import InstanceError, RsockError
from rsock_nf.ops.instances.instance import Instance


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which instances."""
    instance_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Have one instance or all follow their files."""
    from rsock_nf.ops.instances.running import running_instances

    named = named_instance(arguments)
    worst = 0
    for instance in running_instances(named):
        try:
            say(f"{instance.name}: {_reload(instance)}")
        except RsockError as error:
            if named:
                raise
            complain(str(error))
            worst = max(worst, error.exit_code)
    return worst


def _reload(instance: Instance) -> str:
    """What came of it.  This process reads the file: the instance may be another user by now, who cannot."""
    from rsock_nf import config
    from rsock_nf.config.configuration import COMMAND_LINE
    from rsock_nf.ops import handover
    from rsock_nf.ops.control_socket.ask import ask
    from rsock_nf.ops.reload import outcome

    record = instance.record()
    if record is None:
        raise InstanceError(f"instance {instance.name} is just starting or ending")
    if record.config == str(COMMAND_LINE):
        raise InstanceError(f"instance {instance.name} was started by flags: it has no file to reload")
    configuration = config.load_again(Path(record.config))
    tell(configuration)
    answer = ask(instance, "reload", {"settings": handover.as_text(configuration)}, timeout=10.0)
    return outcome([str(key) for key in answer.get("changed", ())], [str(key) for key in answer.get("left", ())])
