"""Metrics as text, in the format of Prometheus (version 0.0.4), written by ``prometheus_client``.

One piece is one metric of all instances: who serves others at the same time can pause between two pieces.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from rsock_nf.ops.metrics.clients import Clients
from rsock_nf.ops.metrics.names import METRICS, PREFIX, Sample, is_counter, samples
from rsock_nf.ops.status.render import UNREADABLE, Snapshot, made_printable
from rsock_nf.printable import printable


class _One(Collector):
    """A collector of one metric."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return [self._metric]


def text(snapshots: Iterable[Snapshot]) -> str:
    """The metrics of instances as ``status`` finds them, once: what has ended with a session is not counted.

    Of one that does not answer, or answers what this version cannot read, it is told that it is not up.
    """
    found: dict[str, list[Sample]] = {}
    for snapshot in snapshots:
        name = printable(str(snapshot["name"]))
        try:
            found[name] = [_checked(sample) for sample in samples(made_printable(snapshot), Clients())]
        except UNREADABLE:
            found[name] = [Sample("up", (), 0)]
    return b"".join(pieces(found)).decode()


def _checked(sample: Sample) -> Sample:
    """The same, with a number and strings for sure.  Raises one of ``UNREADABLE``."""
    return Sample(sample.name, tuple(map(str, sample.labels)), float(sample.value))


def pieces(instances: Mapping[str, Iterable[Sample]]) -> Iterator[bytes]:
    """The text of all metrics that have a value; ``instances``: the samples of each, by its name."""
    found: dict[str, list[tuple[str, Sample]]] = defaultdict(list)
    for instance, values in instances.items():
        for sample in values:
            found[sample.name].append((instance, sample))
    for name, described in METRICS.items():
        if not found[name]:
            continue
        labels = ("tunnel", *described.labels)
        made: Any = CounterMetricFamily if is_counter(name) else GaugeMetricFamily
        family = made(PREFIX + name, described.text, labels=labels)
        for instance, sample in found[name]:
            family.add_metric((instance, *sample.labels), float(sample.value))
        yield generate_latest(_One(family))
