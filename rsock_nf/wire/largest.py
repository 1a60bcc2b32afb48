"""The largest datagram that fits one frame, computed from the MTU of a link: what is known before a flow is up.

Not here: what the flows of a session have found out by their probes (``core.flows.session``).
"""

from __future__ import annotations

from rsock_nf.core.parameters import Cipher, Common, Kinds
from rsock_nf.core.tcp.header import overhead
from rsock_nf.wire.native import limits as native
from rsock_nf.wire.parameters import RsockParameters, WireParameters
from rsock_nf.wire.rsock import limits as rsock

_ADDRESS_BYTES = {4: 4, 6: 16}


def largest_datagram(mtu: int, version: int, tunnel: Common, wire: WireParameters) -> int:
    """Bytes of it, on a link that takes IP packets of ``mtu`` bytes, over IP ``version``.

    With two kinds of flow: what fits both.
    """
    udp = tunnel.kinds is Kinds.UDP
    if isinstance(wire, RsockParameters):  # IPv4 only
        return max(min(mtu - overhead(4, udp=udp), rsock.MAX_PAYLOAD) - rsock.OVERHEAD[wire.version], 0)
    headers = overhead(_ADDRESS_BYTES[version], udp=udp)
    sealed = tunnel.cipher is not Cipher.NONE
    payload = min(mtu - headers, native.LIMITS.max_payload)
    return max(payload - native.OVERHEAD - (native.TAG if sealed else 0), 0)
