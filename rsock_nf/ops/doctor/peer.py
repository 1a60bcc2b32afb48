"""What was seen of the server (``dial.Look``), as findings: its ports, the secret, the path."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from rsock_nf.core.parameters import ClientParameters
from rsock_nf.errors import InstanceError
from rsock_nf.link.checks import Finding, Verdict
from rsock_nf.ops import privileges
from rsock_nf.ops.doctor import running
from rsock_nf.ops.doctor.dial import MOST_PORTS, SMALLEST_SOUGHT, Look, ask_instance, dial
from rsock_nf.ops.ping import Tally
from rsock_nf.policy import fake_tcp_ports
from rsock_nf.settings import Settings
from rsock_nf.words import vpn_numbers

_REMEDIES: Final = {
    "silent": "open these {kind} ports in the firewall of the server's provider; on the server: rsock-nf status",
    "refused": 'on the server: rsock-nf up --config FILE; make "ports" the same in both files',
    "reset": 'compare "secret" and "wire"; if they are the same, a firewall on the way ends it: try other "ports"',
    "unanswered": 'compare "secret", "wire" and `rsock-nf --version`; on the server: ss -tlnp shows who has the port',
}
_TEXTS: Final = {
    "silent": {"tcp": "no answer to a SYN", "udp": "no answer to a hello"},
    "refused": {"tcp": "refused (RST)", "udp": "refused (ICMP port unreachable)"},
    "reset": {"tcp": "open, but reset when we spoke", "udp": "reset"},
    "unanswered": {"tcp": "open (SYN-ACK), but leave hellos unanswered", "udp": "no answer to a hello"},
    "open": {"tcp": "open", "udp": "open"},
    "answered": {"tcp": "open, and the server answers hellos", "udp": "the server answers hellos"},
}
_AS: Final = {"dialled": "silent"}
"""Who has not answered when we stop listening is silent."""
_LOSS: Final = 0.02
_MOST_SPANS: Final = 8
"""In one line.  Of thousands of ports, those that are asked lie far apart."""


def look(settings: Settings) -> Look | None:
    """Ask the server of a client's configuration; None = there is nobody to ask, or we may not."""
    if not isinstance(settings.tunnel, ClientParameters) or settings.unresolved:
        return None
    instance = running.own(settings)
    if instance is not None:
        return ask_instance(instance)
    if fake_tcp_ports(settings) and privileges.refusal("a tunnel", settings.backend):
        return None
    return dial(settings, settings.tunnel)


def examine(settings: Settings, seen: Look) -> list[Finding]:
    """What ``look`` has seen."""
    found: list[Finding] = []
    if seen.runs:
        found += _changed(settings)
    if not seen.snapshot:
        return [*found, Finding(Verdict.FAIL, "server", seen.failure)]
    snapshot = seen.snapshot
    stands = bool(snapshot["sessions"])
    for udp in (False, True):
        reports = [one for one in _of_address(snapshot) if (one["type"] == "udp") is udp]
        if reports:
            found += _ports(snapshot["remote"], reports, stands=stands)
    if seen.asked:
        text = f"{seen.asked} of its ports were asked, spread over all (at most {MOST_PORTS} at a time)"
        found.append(Finding(Verdict.OK, "server", text))
    found += _secret(snapshot, stands=stands)
    if stands:
        found += [*_address(snapshot), *_paths(snapshot), *_loss(seen.replies)]
    return found


def _changed(settings: Settings) -> Iterator[Finding]:
    instance = running.own(settings)
    try:
        record = instance.record() if instance is not None else None
    except InstanceError:
        return
    if record is not None and record.digest != settings.digest:
        text = f"{settings.path} has changed since the instance was started: it was asked as it runs"
        yield Finding(
            Verdict.WARN,
            "file",
            text,
            f"rsock-nf reload --name {settings.name} follows it, or names what takes down and up",
        )


def _of_address(snapshot: dict[str, Any]) -> list[dict[str, Any]]:
    """The ports of the address in use; before any answer, of all addresses."""
    reports: list[dict[str, Any]] = snapshot["dialled"]
    return [one for one in reports if one["remote"] == snapshot["remote"]] or reports


def _ports(remote: str, reports: Sequence[dict[str, Any]], *, stands: bool) -> Iterator[Finding]:
    """One line for those that answer, and one for each way in which others do not.

    ``stands``: the tunnel stands all the same, perhaps by the other kind of flow.
    """
    kind = reports[0]["type"]
    by_outcome: dict[str, list[dict[str, Any]]] = {}
    for one in reports:
        by_outcome.setdefault(_AS.get(one["outcome"], one["outcome"]), []).append(one)
    for outcome, ports in sorted(by_outcome.items(), key=lambda item: item[0] in _REMEDIES):
        named = f"{remote}, {kind.upper()} {_spans([one['port'] for one in ports])}"
        if outcome in _REMEDIES:
            verdict = Verdict.WARN if stands else Verdict.FAIL
            remedy = _REMEDIES[outcome].format(kind=kind.upper())
            yield Finding(verdict, "server", f"{named}: {_TEXTS[outcome][kind]}", remedy)
            continue
        took = [one["took_ms"] for one in ports if one["took_ms"] is not None]
        first = "SYN-ACK" if kind == "tcp" else "an answer"
        after = f" ({first} after {min(took):.1f} ms)" if took else ""
        yield Finding(Verdict.OK, "server", f"{named}: {_TEXTS.get(outcome, {}).get(kind, 'up')}{after}")


def _secret(snapshot: dict[str, Any], *, stands: bool) -> Iterator[Finding]:
    if stands and snapshot["sessions"][0]["wire"] == "rsock":
        text = 'rsock: nothing is authenticated; whether "hash" is the server\'s shows with the first datagrams'
        yield Finding(Verdict.OK, "wire", text)
    elif stands:
        session = snapshot["sessions"][0]
        text = f"the server has the same one; wire {session['wire']}, cipher {session['cipher']}"
        yield Finding(Verdict.OK, "secret", text)
    elif any(one["outcome"] in ("open", "unanswered", "answered", "reset") for one in snapshot["dialled"]):
        yield Finding(Verdict.FAIL, "secret", str(snapshot["reason"]))
    elif not snapshot["dialled"]:
        yield Finding(Verdict.FAIL, "server", str(snapshot["reason"] or "nothing was dialled"))


def _address(snapshot: dict[str, Any]) -> Iterator[Finding]:
    """What the server says of our address; nothing of a server that does not say it."""
    seen = sorted({session["seen_as"] for session in snapshot["sessions"] if session.get("seen_as")})
    if not seen:
        return
    own = {
        flow["local"].rpartition(":")[0].strip("[]") for session in snapshot["sessions"] for flow in session["flows"]
    }
    between = "" if own.issuperset(seen) else f"; its own is {', '.join(sorted(own))}, so a NAT is on the way"
    yield Finding(Verdict.OK, "address", f"the server sees this host as {', '.join(seen)}{between}")


def _paths(snapshot: dict[str, Any]) -> Iterator[Finding]:
    """For each kind, the largest IP packet that passes out and in; narrow ones with what to set."""
    flows = [flow for session in snapshot["sessions"] for flow in session["flows"]]
    for kind in ("tcp", "udp"):
        known = [flow for flow in flows if flow["type"] == kind and flow["path_known"]]
        if not known:
            continue
        out = min(flow["max_payload"] + flow["headers"] for flow in known)
        sizes = [flow["largest_in"] + flow["headers"] for flow in known if flow["largest_in"] >= SMALLEST_SOUGHT]
        into = min(sizes, default=0)
        link = snapshot["link"]["mtu"] or 0
        text = f"{kind.upper()}: packets of {out} bytes pass out, of {into or '?'} in"
        narrow = min(out, into or out)
        if narrow < link:
            largest = snapshot["mtu"] - (out - narrow)
            remedy = f"set {vpn_numbers(largest)}; others: datagrams of at most {largest} bytes"
            yield Finding(Verdict.WARN, "path MTU", f"{text}; the link here takes {link}", remedy)
        else:
            yield Finding(Verdict.OK, "path MTU", text)


def _loss(replies: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    for kind in ("tcp", "udp"):
        tally = Tally()
        for reply in replies:
            if reply["type"] == kind:
                tally.count(reply["rtt_ms"])
        if not tally.sent:
            continue
        text = f"{kind.upper()}: {tally.sent - len(tally.times)} of {tally.sent} round trips lost"
        if spread := tally.spread():
            text = f"{text}; RTT {spread['min']:.1f} / {spread['avg']:.1f} / {spread['max']:.1f} ms (min / avg / max)"
        lossy = tally.loss > _LOSS
        remedy = "look for the loss on the way: mtr SERVER, ping SERVER" if lossy else ""
        yield Finding(Verdict.WARN if lossy else Verdict.OK, "loss", text, remedy)


def _spans(ports: Sequence[int]) -> str:
    """``[1, 2, 3, 7]`` as ``ports 1-3,7``."""
    spans: list[list[int]] = []
    for port in sorted(set(ports)):
        if spans and port == spans[-1][1] + 1:
            spans[-1][1] = port
        else:
            spans.append([port, port])
    text = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans[:_MOST_SPANS])
    if len(spans) > _MOST_SPANS:
        text += f",… ({len(set(ports))} of them)"
    return f"{'port' if len(set(ports)) == 1 else 'ports'} {text}"
