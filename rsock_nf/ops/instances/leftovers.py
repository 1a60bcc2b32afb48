"""Removing the firewall rules of instances that no longer run, without any memory of them.

What they were is found in the host's tables by name, by every backend that may have written there.
"""

from __future__ import annotations

from rsock_firewall import FirewallError, left_on_this_host
from rsock_nf.errors import InstanceError
from rsock_nf.link import system
from rsock_nf.ops.instances.run_directory import RUN_DIR_VARIABLE
from rsock_nf.shares import instance_of, names_of


def clear_rules(name: str) -> list[str]:
    """Remove what instance ``name`` left; the backends where there was something.

    Raises ``InstanceError`` naming what could not be removed, after trying every backend.
    """
    removed, refusals = [], []
    names = names_of(name) if system().has_workers else [name]
    for backend in left_on_this_host():
        for one in names:
            try:
                if backend.clear(one):
                    removed.append(backend.name)
            except FirewallError as error:
                refusals.append(str(error))
    if refusals:
        raise InstanceError("; ".join(dict.fromkeys(refusals)))
    return list(dict.fromkeys(removed))


def clear_all_rules() -> list[str]:
    """Remove the rules of every instance that does not run, in this network namespace; their names."""
    removed: set[str] = set()
    refusals = []
    for backend in left_on_this_host():
        try:
            removed.update(map(instance_of, backend.clear_all()))
        except FirewallError as error:
            refusals.append(str(error))
    if refusals:
        hint = f"`rsock-nf status` does not list it if it was started with another {RUN_DIR_VARIABLE}"
        raise InstanceError(f"{'; '.join(refusals)} ({hint})")
    return sorted(removed)
