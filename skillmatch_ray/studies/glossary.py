"""What a glossary is worth, and one that has gaps."""

from __future__ import annotations

from dataclasses import dataclass

from skillmatch_ray.config import BUILTIN
from skillmatch_ray.model.linking import some
from skillmatch_ray.sample.vocabulary import read_glossary
from skillmatch_ray.studies.material import Material
from skillmatch_ray.studies.study import Contrast, Study, Variant


@dataclass(frozen=True)
class LinkConcepts:
    """Tell every document, in training and in evaluation, the concepts that it names.

    Attributes:
        share: of the concepts that the glossary has, drawn anew for each seed.
    """

    share: float

    def __call__(self, material: Material, seed: int) -> Material:
        """The same glossary for all documents."""
        glossary = some(read_glossary([BUILTIN]), self.share, seed)
        return material.with_all(glossary.read, glossary.read)


def _known(share: float, *, headline: bool = False) -> Variant:
    name = f"{share:.0%}".removesuffix("%")
    change = LinkConcepts(share)
    return Variant(f"known-{name}", f"{name} % known", headline=headline, change=change, curve="glossary", x=share)


STUDY = Study(
    name="glossary",
    summary="a glossary of skills and trades in five languages, whole and with gaps",
    question=(
        "What is it worth to know that names in several languages are one skill? Heads are trained and measured on "
        "documents with a section of the concepts that they name, where the glossary holds every concept, or a random "
        "part of them, and on documents without."
    ),
    variants=(
        Variant("none", "no glossary", headline=True, curve="glossary", x=0.0),
        _known(0.25),
        _known(0.5, headline=True),
        _known(0.75),
        _known(1.0, headline=True),
    ),
    contrasts=(
        *(Contrast(f"known-{share}", "none") for share in (25, 50, 75, 100)),
        *(Contrast(f"known-{share}", "none", metric="map other languages") for share in (50, 100)),
        Contrast("known-100", "known-50"),
    ),
    notes=(
        "The sample is written in the names of this glossary: all known is more than a marketplace's own ever knows.",
    ),
    axis="share of the concepts that the glossary holds",
)
