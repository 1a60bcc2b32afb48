"""Which backend: one of the two places where the operating system is chosen.

Backends are imported when asked for: pyroute2 and python-iptables cost 0.3 to 0.6 s.
"""

from __future__ import annotations

from rsock_firewall.policy import Firewall, FirewallError

BACKENDS = ("auto", "nftables", "iptables", "manual")


def select(backend: str = "auto") -> Firewall:
    """A backend that works here.

    ``auto``: nftables, else iptables.  A backend asked for by name is taken or refused, never replaced.
    Raises ``FirewallError`` naming why.
    """
    if backend != "auto":
        chosen = _load(backend)
        chosen.probe()
        return chosen
    reasons = []
    for name in ("nftables", "iptables"):
        chosen = _load(name)
        try:
            chosen.probe()
        except FirewallError as error:
            reasons.append(f"{name}: {error}")
        else:
            return chosen
    raise FirewallError("no firewall backend works here: " + "; ".join(reasons))


def _load(backend: str) -> Firewall:
    if backend == "nftables":
        from rsock_firewall.nftables import Nftables

        return Nftables()
    if backend == "iptables":
        from rsock_firewall.iptables import Iptables

        return Iptables()
    if backend == "manual":
        from rsock_firewall.manual import Manual

        return Manual()
    raise FirewallError(f"backend: {backend!r} is not one of {', '.join(BACKENDS)}")
