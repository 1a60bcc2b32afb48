"""What all workers tell, as what one instance tells.

Sessions and flows stand one after the other, counters are sums, of states the worst counts, and reasons are united.
Counters of a worker that is started again begin anew, and so the sums may become smaller.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from rsock_nf.core.ends.port_reports import Outcome
from rsock_nf.core.parameters import ClientParameters
from rsock_nf.settings import Settings
from rsock_nf.words import vpn_settings

_WORST_FIRST: Final = ("starting", "waiting", "connecting", "connected", "idle", "serving")
_SAME: Final = ("role", "version", "config", "cipher", "idle_timeout", "type", "pump", "pump_reason")
"""What is the same for all."""
_STATES_ALONE: Final = ("wire", "ports", "type")
_FAR: Final = {outcome.value: far for far, outcome in enumerate(Outcome)}
"""How far a dial has come: an ``Outcome`` is further than those before it."""


class Told(NamedTuple):
    """What one worker has answered."""

    worker: int
    """Its number, from 0 on."""
    answer: dict[str, Any]


def merged_snapshot(settings: Settings, told: Sequence[Told], troubles: Sequence[str], uptime: float) -> dict[str, Any]:
    """The snapshot of the instance: see ``runtime.reports.snapshot``, with ``workers`` beside.

    ``troubles``: what is wrong with workers that have told nothing.
    """
    if not told:
        return _of_none(settings, troubles, uptime)
    found = [one.answer for one in told]
    first = found[0]
    measured = [one for one in found if not one["mtu_computed"]] or found
    mtu = min(one["mtu"] for one in measured)
    return {
        "name": settings.name,
        **{key: first[key] for key in _SAME},
        "uptime": uptime,
        "state": _worst([one["state"] for one in found]),
        "reason": _united([*troubles, *_each(found, "reason")]),
        "hopeless": all(one["hopeless"] for one in found),
        "notes": _distinct(note for one in found for note in one["notes"]),
        "turned_away": any(one["turned_away"] for one in found),
        "detoured": any(one["detoured"] for one in found),
        "looped": sum(one["looped"] for one in found),
        "ports": first["ports"],
        "mtu": mtu,
        "mtu_ipv4": next(filter(None, _each(found, "mtu_ipv4")), None) if all(_each(found, "mtu_computed")) else None,
        "vpn": vpn_settings(mtu),
        "mtu_computed": all(one["mtu_computed"] for one in found),
        "wires": [_wire(wires) for wires in zip(*(one["wires"] for one in found), strict=True)],
        "sessions": [
            {**session, "worker": one.worker + 1, "flows_wanted": one.answer["flows_wanted"]}
            for one in told
            for session in one.answer["sessions"]
        ],
        "remote": next(filter(None, _each(found, "remote")), ""),
        "dialled": _dialled(found),
        "flows_wanted": None if first["flows_wanted"] is None else sum(one["flows_wanted"] for one in found),
        "link": {
            **first["link"],
            "up": all(one["link"]["up"] for one in found),
            "mtu": min((one["link"]["mtu"] for one in found if one["link"]["mtu"]), default=None),
            "counters": _sums([one["link"]["counters"] for one in found]),
        },
        "carriers": _sums(_each(found, "carriers")),
        "firewall": {
            **_sums([one["firewall"] for one in found]),
            "backend": first["firewall"]["backend"],
            "local_ports": sorted(port for one in found for port in one["firewall"]["local_ports"]),
        },
        "sockets": _sums(_each(found, "sockets")),
        "refused_by": _sums(_each(found, "refused_by")),
        "targets": _by(found, "targets", "target", _target),
        "strangers": sorted(_by(found, "strangers", "address", _stranger), key=lambda one: -one["payloads"]),
        "strangers_ago": _least(_each(found, "strangers_ago")),
        "backlog_dropped": sum(one["backlog_dropped"] for one in found),
        "made_room": sum(one["made_room"] for one in found),
        "counters": _sums(_each(found, "counters")),
        "workers": [_worker(one) for one in told],
        "workers_wanted": settings.workers,
    }


def _dialled(found: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each port the best that a worker has found there: what one finds now, another may have found before."""
    best: dict[Hashable, dict[str, Any]] = {}
    for dial in (dial for one in found for dial in one["dialled"]):
        port = dial["remote"], dial["port"], dial["type"]
        if port not in best or _FAR[dial["outcome"]] > _FAR[best[port]["outcome"]]:
            best[port] = dial
    return list(best.values())


def _worker(told: Told) -> dict[str, Any]:
    answer = told.answer
    return {
        "worker": told.worker + 1,
        "pid": answer["pid"],
        "state": answer["state"],
        "sessions": len(answer["sessions"]),
        "processor_seconds": answer["processor_seconds"],
        "local_ports": answer["firewall"]["local_ports"],
    }


def _of_none(settings: Settings, troubles: Sequence[str], uptime: float) -> dict[str, Any]:
    """Before the first one answers, or when none does."""
    from rsock_nf.runtime.reports.snapshot import snapshot
    from rsock_nf.runtime.reports.view import HostView, View

    client = isinstance(settings.tunnel, ClientParameters)
    view = View(settings, reason=_united(troubles) or ("starting" if client else ""))
    return {**snapshot(view, HostView(), now=uptime, started=0.0), "workers": [], "workers_wanted": settings.workers}


def merged_headline(lines: Iterable[str]) -> str:
    """One line for a service manager: what all say, or each of them once."""
    lines = list(lines)
    distinct = _distinct(lines)
    if len(distinct) == 1:
        return f"{len(lines)} workers: {distinct[0]}"
    starting = lines.count("starting")
    if starting:
        return f"{starting} of {len(lines)} workers start; " + " | ".join(
            line for line in distinct if line != "starting"
        )
    return f"{len(lines)} workers: " + " | ".join(distinct)


def merged_pings(told: Sequence[Told]) -> dict[str, Any]:
    """The answers of all, those of the first worker first."""
    replies = [{**reply, "worker": one.worker + 1} for one in told for reply in one.answer["replies"]]
    return {"replies": replies, "reason": "" if replies else _united(_each([one.answer for one in told], "reason"))}


def _each(found: Iterable[Mapping[str, Any]], key: str) -> list[Any]:
    return [one[key] for one in found]


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _united(reasons: Iterable[str]) -> str:
    """Of reasons that differ in numbers only, a port's for example, the first."""
    alike = {re.sub(r"\d+", "", reason): reason for reason in reversed([*filter(None, reasons)])}
    return "; ".join(reversed(alike.values()))


def _worst(states: Sequence[str]) -> str:
    return next((state for state in _WORST_FIRST if state in states), states[0])


def _least(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _sums(counters: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the numbers, key by key.  What is no number is left out."""
    sums: dict[str, Any] = {}
    for one in counters:
        for key, value in one.items():
            if isinstance(value, int | float):
                sums[key] = sums.get(key, 0) + value
    return sums


def _wire(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One wire, of which each worker has told its part."""
    measured = [part for part in parts if not part["mtu_computed"]] or parts
    return {
        **{key: parts[0][key] for key in _STATES_ALONE},
        "mtu": min(part["mtu"] for part in measured),
        "mtu_computed": all(part["mtu_computed"] for part in parts),
    }


def _by(
    found: Iterable[Mapping[str, Any]],
    key: str,
    named: str,
    merge: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]],
) -> list[dict[str, Any]]:
    """The lists ``key`` of all, with one entry for each value of ``named``."""
    entries: dict[Hashable, dict[str, Any]] = {}
    for entry in (entry for one in found for entry in one[key]):
        name = entry[named]
        entries[name] = merge(entries[name], entry) if name in entries else dict(entry)
    return list(entries.values())


def _target(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **one,
        "refuses": one["refuses"] or other["refuses"],
        "refused": one["refused"] + other["refused"],
        "refused_ago": min(one["refused_ago"], other["refused_ago"]),
    }


def _stranger(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {**one, "payloads": one["payloads"] + other["payloads"]}
