"""The service's metrics in Ray's Prometheus endpoint, all named skillmatch_*."""

from __future__ import annotations

from ray.serve import metrics

_MILLISECONDS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000]
_COUNTS = [0.5, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000]


class Metrics:
    """Takes what the API and the admission tell; one of them in each ingress replica."""

    def __init__(self) -> None:
        self._counters = {
            "requests": metrics.Counter("skillmatch_requests", "requests answered", ("route", "status")),
            "empty_results": metrics.Counter("skillmatch_empty_results", "matches without any candidate"),
            "matches": metrics.Counter("skillmatch_matches", "matches by release", ("release", "fingerprint")),
        }
        self._histograms = {
            "request_ms": metrics.Histogram(
                "skillmatch_request_ms", "milliseconds of a request", _MILLISECONDS, ("route",)
            ),
            "hop_ms": metrics.Histogram("skillmatch_hop_ms", "milliseconds of one hop", _MILLISECONDS, ("hop",)),
            "candidates": metrics.Histogram(
                "skillmatch_candidates", "rows looked at, and candidates returned", _COUNTS, ("stage",)
            ),
        }

    def observe(self, name: str, value: float, tags: dict[str, str]) -> None:
        """Record one value.

        Args:
            name: without the prefix.
            value: added to a counter, observed by a histogram.
            tags: as the metric declares them.
        """
        if name in self._counters:
            self._counters[name].inc(value, tags)
        else:
            self._histograms[name].observe(value, tags)
