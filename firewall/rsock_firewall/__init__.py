"""Rules that keep the kernel from seeing the inbound traffic that is ours.

``select(backend)`` gives a ``Firewall``.  ``Firewall.hold(policy)`` installs the policy for as long as its context
lasts.  This package imports nothing of ``rsock_nf``, and no other part of the project touches a host's packet filter.
``firewall/README.md`` is the auditor's guide.
"""

from rsock_firewall.policy import Counters, Firewall, FirewallError, Held, Policy, PortRange
from rsock_firewall.select import keep_files, kept_by, left_on_this_host, render_unprobed, select

__all__ = [
    "Counters",
    "Firewall",
    "FirewallError",
    "Held",
    "Policy",
    "PortRange",
    "keep_files",
    "kept_by",
    "left_on_this_host",
    "render_unprobed",
    "select",
]
