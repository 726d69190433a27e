"""Where people of the sample live, and the names of the companies they worked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class City:
    """A city with its position in degrees and the languages of its people."""

    name: str
    country: str
    latitude: float
    longitude: float
    languages: tuple[str, ...]


_ROWS: Final = """
London GB 51.507 -0.128 en; Manchester GB 53.481 -2.243 en; Birmingham GB 52.480 -1.903 en
Edinburgh GB 55.953 -3.188 en; Bristol GB 51.454 -2.588 en; Leeds GB 53.801 -1.549 en; Cardiff GB 51.482 -3.179 en
Dublin IE 53.350 -6.260 en; Cork IE 51.898 -8.476 en; Galway IE 53.271 -9.057 en; Valletta MT 35.899 14.515 en
Paris FR 48.857 2.352 fr; Lyon FR 45.764 4.836 fr; Marseille FR 43.296 5.370 fr; Toulouse FR 43.605 1.444 fr
Bordeaux FR 44.838 -0.579 fr; Lille FR 50.629 3.057 fr; Nantes FR 47.218 -1.554 fr; Strasbourg FR 48.574 7.752 fr,de
Rennes FR 48.117 -1.678 fr; Montpellier FR 43.611 3.877 fr; Grenoble FR 45.188 5.725 fr; Nice FR 43.710 7.262 fr
Bruxelles BE 50.847 4.357 fr,nl; Liège BE 50.633 5.567 fr; Namur BE 50.467 4.872 fr; Gent BE 51.054 3.717 nl
Antwerpen BE 51.219 4.402 nl; Leuven BE 50.880 4.701 nl; Luxembourg LU 49.612 6.130 fr,de
Genève CH 46.204 6.143 fr; Lausanne CH 46.520 6.634 fr; Zürich CH 47.377 8.541 de; Basel CH 47.560 7.588 de,fr
Bern CH 46.948 7.447 de; Berlin DE 52.520 13.405 de; Hamburg DE 53.551 9.994 de; München DE 48.137 11.576 de
Köln DE 50.938 6.960 de; Frankfurt DE 50.111 8.682 de; Stuttgart DE 48.776 9.183 de; Leipzig DE 51.340 12.375 de
Düsseldorf DE 51.228 6.774 de; Dresden DE 51.050 13.738 de; Nürnberg DE 49.452 11.077 de; Bremen DE 53.079 8.802 de
Hannover DE 52.376 9.732 de; Wien AT 48.208 16.374 de; Graz AT 47.071 15.440 de; Linz AT 48.306 14.286 de
Madrid ES 40.417 -3.704 es; Barcelona ES 41.385 2.173 es; Valencia ES 39.470 -0.376 es; Sevilla ES 37.389 -5.984 es
Bilbao ES 43.263 -2.935 es; Málaga ES 36.721 -4.421 es; Zaragoza ES 41.649 -0.889 es; Murcia ES 37.992 -1.131 es
Palma ES 39.570 2.650 es; Granada ES 37.177 -3.599 es; Amsterdam NL 52.370 4.895 nl; Rotterdam NL 51.924 4.478 nl
Utrecht NL 52.091 5.122 nl; Eindhoven NL 51.442 5.469 nl; Groningen NL 53.219 6.567 nl; Maastricht NL 50.851 5.691 nl
Lisboa PT 38.722 -9.139 pt; Milano IT 45.464 9.190 it; Warszawa PL 52.230 21.012 pl; København DK 55.676 12.568 da
"""


def _city(row: str) -> City:
    name, country, latitude, longitude, languages = row.split()
    return City(name, country, float(latitude), float(longitude), tuple(languages.split(",")))


CITIES: Final[tuple[City, ...]] = tuple(_city(row) for line in _ROWS.strip().splitlines() for row in line.split(";"))

COMPANIES: Final = (
    "Nordlicht", "Maison Verdier", "Halden & Roe", "Quintavalle", "Brightwater", "Kessler Söhne", "Van der Poel",
    "Atelier Sorel", "Castaño Hermanos", "Pemberton Lane", "Lumora", "Grauwald", "Delacourt", "Zonneveld", "Arrecife",
    "Ashdown Partners", "Solvento", "Tessaro", "Weidenhof", "Morvan", "Kestrel Works", "Duinrand", "Albatera",
    "Fairhaven", "Rosenau", "Clairval", "Ostermann", "Ribalta", "Thornbury", "Veldhuis", "Montjoie", "Silberbach",
    "Alcorisa", "Redmere", "Hoogland", "Belcastel", "Marlowe Yard", "Ferrandis", "Blauwbrug", "Lindqvist",
)  # fmt: skip
"""Invented names."""
