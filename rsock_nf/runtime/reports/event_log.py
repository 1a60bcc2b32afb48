"""Log lines about events of an endpoint that either role only notes."""

from __future__ import annotations

import logging
from ipaddress import ip_address

from rsock_nf.core.events import (
    Event,
    FlowClosed,
    FlowMoved,
    FlowOpened,
    FlowsDieAt,
    FlowSick,
    KindCarries,
    KindRests,
    SessionDown,
    SessionUp,
    TargetAnswers,
)
from rsock_nf.core.types import FlowKey


def log_event(log: logging.Logger, event: Event) -> None:
    """A session or a flow has come, gone or fallen ill."""
    match event:
        case SessionUp(session_id=session_id, peer=peer, whose=whose):
            log.info("session %016x%s with %s is up", session_id, _of(whose), peer)
        case SessionDown(session_id=session_id, reason=reason, whose=whose):
            log.info("session %016x%s has ended: %s", session_id, _of(whose), reason)
        case FlowOpened(flow_id=flow_id, key=key):
            log.debug("flow %d, %s, is up", flow_id, _ports(key))
        case FlowClosed(flow_id=flow_id, key=key, reason=reason, orderly=orderly):
            level = logging.DEBUG if orderly else logging.INFO
            log.log(level, "flow %d, %s, has ended: %s", flow_id, _ports(key), reason)
        case KindRests(session_id=session_id, text=text):
            log.info("session %016x: %s", session_id, text)
        case KindCarries(session_id=session_id):
            log.info("session %016x: TCP and UDP flows carry again", session_id)
        case TargetAnswers(target=target):
            log.info("the server's target %d answers again", target)
        case FlowsDieAt(age=age):
            log.info("something on the way ends flows at an age of %.0f s: each is renewed before", age)
        case FlowMoved(flow_id=flow_id, old=old, key=key):
            log.debug(
                "flow %d, %s, follows its client from %s to %s",
                flow_id,
                _ports(key),
                old.remote_address,
                key.remote_address,
            )
        case FlowSick(flow_id=flow_id, key=key, reason=reason):
            log.info("flow %d, %s, will be replaced: it %s", flow_id, _ports(key), reason)
        case _:
            raise AssertionError(f"unhandled {event!r}")


def log_suspect(log: logging.Logger, remote: bytes) -> None:
    """Several flows to ``remote`` went silent."""
    log.debug("several flows went silent: asking for the next hop to %s again", ip_address(remote))


def _of(whose: str) -> str:
    return f" of {whose}" if whose else ""


def _ports(key: FlowKey) -> str:
    return f"{'UDP ' if key.udp else ''}port {key.local_port} to {key.remote_port}"
