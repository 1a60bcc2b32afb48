"""Snapshots of running instances as people and scripts read them.

``render`` makes the text of ``status`` from the parts ``head``, ``sessions`` and ``flows``; ``live`` is ``--watch``,
``brief`` is ``--brief``.  ``layout`` fits lines into a width, ``units`` writes numbers.  Programs take ``--json``: the
snapshot, unchanged.
"""

from rsock_nf.ops.status.render import Snapshot, render
from rsock_nf.ops.status.units import duration, size

__all__ = ["Snapshot", "duration", "render", "size"]
