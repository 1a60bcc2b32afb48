"""What opens the frames of the flows that there are now, for ``rsock-nf capture --decrypt``.

Only a daemon whose configuration says ``key_log`` asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

from rsock_nf.core.flows.session import Session
from rsock_nf.wire.native.overheard import disclose


def frame_keys(sessions: Iterable[Session]) -> list[dict[str, Any]]:
    """For each flow: where it is, and its keys.  Flows of another wire are left out: nothing there is encrypted."""
    found = []
    for session in sessions:
        for flow in session.flows.values():
            keys = disclose(flow.pump.codec)
            if keys is None:
                continue
            key = flow.key
            found.append(
                {
                    "session": f"{session.session_id:016x}",
                    "flow": flow.flow_id,
                    "type": "udp" if key.udp else "tcp",
                    "local": [str(ip_address(key.local)), key.local_port],
                    "remote": [str(ip_address(key.remote)), key.remote_port],
                    **keys,
                }
            )
    return found
