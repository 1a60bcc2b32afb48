"""Metrics as text, in the format of Prometheus (version 0.0.4), written by ``prometheus_client``.

It comes in pieces of ``AT_ONCE`` values at most: who serves others at the same time can pause between two pieces.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from rsock_nf.ops.metrics.clients import Clients
from rsock_nf.ops.metrics.names import METRICS, PREFIX, Sample, is_counter, samples
from rsock_nf.ops.status.render import UNREADABLE, Snapshot, made_printable
from rsock_nf.printable import printable

AT_ONCE: Final = 200
"""Values of one piece: some 3 ms on a small machine."""
_SORTED_AT_ONCE: Final = 2000
_HEAD_LINES: Final = 2
"""Lines before the values of a metric."""


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
    """The text of all metrics that have a value; ``instances``: the samples of each, by its name.

    Some pieces are empty: there was only something to sort.
    """
    found: dict[str, list[tuple[str, Sample]]] = defaultdict(list)
    for instance, values in instances.items():
        for number, sample in enumerate(values, 1):
            found[sample.name].append((instance, sample))
            if not number % _SORTED_AT_ONCE:
                yield b""
    for name in METRICS:
        values_of = found[name]
        for first in range(0, len(values_of), AT_ONCE):
            text = _text(name, values_of[first : first + AT_ONCE])
            # HELP and TYPE come once, before the first value (the format wants all values of a metric in one group).
            yield text if not first else text.split(b"\n", _HEAD_LINES)[-1]


def _text(name: str, values: Iterable[tuple[str, Sample]]) -> bytes:
    described = METRICS[name]
    made: Any = CounterMetricFamily if is_counter(name) else GaugeMetricFamily
    family = made(PREFIX + name, described.text, labels=("tunnel", *described.labels))
    for instance, sample in values:
        family.add_metric((instance, *sample.labels), float(sample.value))
    return generate_latest(_One(family))
