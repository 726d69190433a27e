"""Distances on the globe, and boxes that hold every place within a radius."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillmatch_ray.index.geo import EARTH_RADIUS_KM, Box, bounding_box, haversine_km

latitudes = st.floats(-90, 90)
longitudes = st.floats(-180, 180)
radii = st.floats(0, 21_000)


def holds(box: Box, latitude: float, longitude: float) -> bool:
    """Whether a place is inside, borders included."""
    inside = not box.longitudes or any(west <= longitude <= east for west, east in box.longitudes)
    return box.south <= latitude <= box.north and inside


def test_known_distances() -> None:
    assert haversine_km(48.8566, 2.3522, 52.52, 13.405) == pytest.approx(877.5, abs=1)  # Paris - Berlin
    assert haversine_km(0, 0, 0, 180) == pytest.approx(math.pi * EARTH_RADIUS_KM)
    assert haversine_km(90, 12, 90, -77) == pytest.approx(0, abs=1e-6)  # one pole, two longitudes
    assert haversine_km(10, 179.5, 10, -179.5) == pytest.approx(haversine_km(10, 0, 10, 1))


@given(latitudes, longitudes, latitudes, longitudes)
@settings(deadline=None)
def test_distance_is_symmetric_and_bounded(a: float, b: float, c: float, d: float) -> None:
    assert haversine_km(a, b, c, d) == pytest.approx(haversine_km(c, d, a, b), abs=1e-6)
    assert 0 <= haversine_km(a, b, c, d) <= math.pi * EARTH_RADIUS_KM + 1e-6
    assert haversine_km(a, b, a, b) == 0


@given(latitudes, longitudes, radii, latitudes, longitudes)
@settings(deadline=None)
def test_whoever_is_near_is_in_the_box(a: float, b: float, radius: float, c: float, d: float) -> None:
    box = bounding_box(a, b, radius)
    if haversine_km(a, b, c, d) <= radius:
        assert box is None or holds(box, c, d)


@given(latitudes, longitudes, st.floats(1, 5000), st.floats(0, 2 * math.pi), st.floats(0, 1))
@settings(deadline=None)
def test_points_of_the_circle_are_in_the_box(a: float, b: float, radius: float, bearing: float, share: float) -> None:
    """Places drawn inside the circle itself, where random places of the globe rarely are."""
    angle = radius * share / EARTH_RADIUS_KM
    phi = math.radians(a)
    sine = math.sin(phi) * math.cos(angle) + math.cos(phi) * math.sin(angle) * math.cos(bearing)
    other = math.asin(max(-1.0, min(1.0, sine)))
    turn = math.atan2(
        math.sin(bearing) * math.sin(angle) * math.cos(phi), math.cos(angle) - math.sin(phi) * math.sin(other)
    )
    longitude = (math.degrees(math.radians(b) + turn) + 540) % 360 - 180
    box = bounding_box(a, b, radius)
    assert box is None or holds(box, math.degrees(other), longitude)


def test_a_box_across_the_date_line_has_two_ranges() -> None:
    box = bounding_box(0, 179.9, 100)
    assert box is not None
    assert len(box.longitudes) == 2
    assert holds(box, 0, -179.5)
    assert holds(box, 0, 179.5)
    assert not holds(box, 0, 0)


def test_a_box_over_a_pole_holds_every_longitude() -> None:
    box = bounding_box(89.9, 10, 100)
    assert box is not None
    assert box.longitudes == ()
    assert holds(box, 89.95, -170)
    assert not holds(box, 88, 10)


def test_a_circle_of_half_the_globe_has_no_box() -> None:
    assert bounding_box(10, 10, math.pi * EARTH_RADIUS_KM) is None
    assert np.isfinite(bounding_box(0, 0, 10_000).south)  # type: ignore[union-attr]
