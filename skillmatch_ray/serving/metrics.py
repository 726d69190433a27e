"""The service's metrics in Ray's Prometheus endpoint, all named skillmatch_*."""

from __future__ import annotations

from ray.serve import metrics

_PREFIX = "skillmatch_"
_MILLISECONDS: list[float] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000]
_COUNTS: list[float] = [0.5, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 100000, 1000000]
_ITEMS: list[float] = [1, 2, 4, 8, 16, 32, 64]
_SHARES: list[float] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]

COUNTERS = {
    "requests": ("requests answered", ("route", "status")),
    "errors": ("requests answered with a problem, by its kind", ("kind",)),
    "empty_results": ("matches without any candidate", ()),
    "matches": ("matches by release", ("release", "fingerprint")),
    "ranker_fallbacks": ("matches whose ranker gave no scores in time", ("reason",)),
}

GAUGES = {
    "active": ("requests under way in the ingress, as the latest one ended", ()),
    "release_rows": ("rows of the release that answered last", ("release", "fingerprint")),
}

HISTOGRAMS: dict[str, tuple[str, list[float], tuple[str, ...]]] = {
    "request_ms": ("milliseconds of a request", _MILLISECONDS, ("route",)),
    "hop_ms": ("milliseconds of one hop: encode, search, rank, explain", _MILLISECONDS, ("hop",)),
    "queue_ms": ("milliseconds that the first item of a batch waited", _MILLISECONDS, ("batch",)),
    "batch_items": ("items of a batch", _ITEMS, ("batch",)),
    "batch_fill": ("share of a batch's size or budget that was used", _SHARES, ("batch",)),
    "candidates": ("rows in the index, looked at, kept by the filters, returned", _COUNTS, ("stage",)),
    "ranker_agreement": ("share of the search's best top_k that the ranker kept among its own", _SHARES, ()),
}


class Metrics:
    """Takes what the API, the batches and the admission tell; one of them in each replica."""

    def __init__(self) -> None:
        self._counters = {n: metrics.Counter(_PREFIX + n, text, tags) for n, (text, tags) in COUNTERS.items()}
        self._gauges = {n: metrics.Gauge(_PREFIX + n, text, tags) for n, (text, tags) in GAUGES.items()}
        self._histograms = {
            n: metrics.Histogram(_PREFIX + n, text, bounds, tags) for n, (text, bounds, tags) in HISTOGRAMS.items()
        }

    def observe(self, name: str, value: float, tags: dict[str, str]) -> None:
        """Record one value.

        Args:
            name: without the prefix.
            value: added to a counter, set in a gauge, observed by a histogram.
            tags: as the metric declares them.
        """
        if name in self._counters:
            self._counters[name].inc(value, tags)
        elif name in self._gauges:
            self._gauges[name].set(value, tags)
        else:
            self._histograms[name].observe(value, tags)
