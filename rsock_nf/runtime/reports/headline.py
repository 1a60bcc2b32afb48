"""A running instance in one line, for a service manager: ``systemctl status`` shows it."""

from __future__ import annotations

from rsock_nf.runtime.reports.view import View


def headline(view: View) -> str:
    """``connected to 203.0.113.5: 10 flows``; behind a colon why nothing, or not all, is carried."""
    flows = sum(len(session.flows) for session in view.sessions)
    match view.state:
        case "connected":
            state, detail = f"connected to {view.remote}", _counted(flows, "flow")
        case "serving":
            state, detail = "serving", f"{_counted(len(view.sessions), 'session')}, {_counted(flows, 'flow')}"
        case "idle":
            state, detail = "idle", "no flows until the next datagram"
        case _:
            state, detail = view.state, ""
    said = "; ".join(filter(None, [detail, view.reason if view.reason != state else ""]))
    return f"{state}: {said}" if said else state


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
