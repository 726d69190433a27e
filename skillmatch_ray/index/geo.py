"""Distances on the globe, and the boxes of latitude and longitude that surely hold a circle."""

from __future__ import annotations

import math
from dataclasses import dataclass

EARTH_RADIUS_KM = 6371.0088
"""Mean radius (IUGG)."""

_SLACK_DEGREES = 1e-6
"""About 0.1 m: more than rounding can take from a box."""


def haversine_km(latitude: float, longitude: float, other_latitude: float, other_longitude: float) -> float:
    """Great-circle distance of two places in degrees, in kilometres."""
    phi, other_phi = math.radians(latitude), math.radians(other_latitude)
    half_dphi = (other_phi - phi) / 2
    half_dlambda = math.radians(other_longitude - longitude) / 2
    h = math.sin(half_dphi) ** 2 + math.cos(phi) * math.cos(other_phi) * math.sin(half_dlambda) ** 2
    return 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(min(1.0, h)))


@dataclass(frozen=True)
class Box:
    """Latitudes from south to north, and one or two ranges of longitude (two across the date line).

    Attributes:
        south: least latitude, degrees.
        north: greatest latitude, degrees.
        longitudes: (west, east) ranges, west <= east; empty = every longitude.
    """

    south: float
    north: float
    longitudes: tuple[tuple[float, float], ...]


def bounding_box(latitude: float, longitude: float, radius_km: float) -> Box | None:
    """A box that holds every place within `radius_km`; None where that is the whole globe.

    A circle that touches a pole holds every longitude; one that crosses the date line has two ranges.
    """
    angle = radius_km / EARTH_RADIUS_KM
    if angle >= math.pi:
        return None
    spread = math.degrees(angle) + _SLACK_DEGREES
    south, north = latitude - spread, latitude + spread
    if south <= -90 or north >= 90:
        return Box(max(-90.0, south), min(90.0, north), ())
    reach = math.degrees(math.asin(min(1.0, math.sin(angle) / math.cos(math.radians(latitude))))) + _SLACK_DEGREES
    return Box(south, north, _longitudes(longitude - reach, longitude + reach))


def _longitudes(west: float, east: float) -> tuple[tuple[float, float], ...]:
    if east - west >= 360:
        return ()
    if west < -180:
        return ((-180.0, east), (west + 360, 180.0))
    if east > 180:
        return ((-180.0, east - 360), (west, 180.0))
    return _with_date_line(west, east)


def _with_date_line(west: float, east: float) -> tuple[tuple[float, float], ...]:
    """-180 and 180 are one meridian: a range that ends on it holds both spellings."""
    if west == -180.0:
        return ((west, east), (180.0, 180.0))
    if east == 180.0:
        return ((-180.0, -180.0), (west, east))
    return ((west, east),)
