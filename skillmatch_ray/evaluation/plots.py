"""Plots of reports: each function makes one figure from plain numbers; `data_uri` puts it into a page or a file.

Nothing here touches matplotlib's global state. Shapes: n points.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

ACCENT: Final = "#0b6e4f"
OTHERS: Final = ("#c44900", "#3d5a98", "#8f2d8c", "#b08900")
QUIET: Final = "#9aa3ab"
INK: Final = "#1d2b36"
GROUPS: Final = (
    "#0b6e4f", "#c44900", "#3d5a98", "#8f2d8c", "#b08900", "#1b9aaa", "#d1495b", "#66a182", "#2e4057", "#edae49",
    "#7a5195", "#00798c", "#a44a3f", "#4f6d7a", "#9bc53d", "#5f0f40", "#e36414", "#0f4c5c", "#8d99ae",
)  # fmt: skip
"""Colours of categories; what comes after them is grey."""
_DASHES: Final = ("-", "--", ":", "-.", (0, (1, 1)))

Colours = dict[str, tuple[str, Any]]


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """An empty figure of so many inches, and its axes without the frame's upper and right lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(colors=INK, labelsize=9)
    return figure, axes


def image(figure: Any, form: Literal["svg", "png"] = "svg") -> bytes:
    """The figure as a file; equal figures give equal bytes."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
    with mpl.rc_context({"svg.hashsalt": "skillmatch"}):
        figure.savefig(buffer, format=form, dpi=144, metadata=metadata)
    return buffer.getvalue()


def data_uri(figure: Any, form: Literal["svg", "png"] = "svg") -> str:
    """The figure as the source of an image that a page carries in itself."""
    kind = "image/svg+xml" if form == "svg" else "image/png"
    return f"data:{kind};base64,{base64.b64encode(image(figure, form)).decode()}"


def system_styles(systems: Iterable[str], first: str, quiet: Iterable[str]) -> Colours:
    """Colour and dash of each system: `first` stands out, `quiet` ones are grey, the others have a colour each."""
    grey = list(quiet)
    others = iter(OTHERS * 10)
    styles: Colours = {}
    for name in systems:
        if name == first:
            styles[name] = (ACCENT, "-")
        elif name in grey:
            styles[name] = (QUIET, _DASHES[grey.index(name) % len(_DASHES)])
        else:
            styles[name] = (next(others), "-")
    return styles


def recall_curves(curves: Mapping[str, Mapping[str, float]], styles: Colours) -> Any:
    """Recall@k of each system over k, on a logarithmic axis."""
    figure, axes = new_figure(6.4, 3.8)
    for name, curve in curves.items():
        colour, dash = styles[name]
        places = [int(k) for k in curve]
        axes.plot(
            places, list(curve.values()), color=colour, linestyle=dash, linewidth=1.8, marker="o", ms=3, label=name
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("k best places", color=INK)
    axes.set_ylabel("recall@k", color=INK)
    axes.grid(axis="y", color="#e6e9ec")
    axes.legend(frameon=False, fontsize=9, loc="best")
    return figure


def interval_bars(rows: Mapping[str, tuple[float, float, float]], styles: Colours, label: str) -> Any:
    """One bar a system, (value, low, high), the best on top."""
    figure, axes = new_figure(6.4, 0.8 + 0.36 * len(rows))
    ordered = sorted(rows.items(), key=lambda item: item[1][0])
    values = np.array([found for _, found in ordered], dtype=np.float64)
    errors = np.abs(values[:, 1:].T - values[:, 0])
    names = [name for name, _ in ordered]
    axes.barh(names, values[:, 0], color=[styles[name][0] for name in names], height=0.62)
    axes.errorbar(values[:, 0], names, xerr=errors, fmt="none", ecolor=INK, elinewidth=1.2, capsize=3)
    for name, (value, _, high) in ordered:
        axes.annotate(f"{value:.3f}", (max(value, high), name), (5, 0), textcoords="offset points", va="center", size=9)
    axes.set_xlim(0, max(0.01, values.max()) * 1.15)
    axes.set_xlabel(label, color=INK)
    return figure


def heat_map(cells: Mapping[tuple[str, str], float], rows: str, columns: str, *, signed: bool = False) -> Any:
    """Values by (row, column); empty where there is none. Signed values are coloured around 0."""
    down, across = (sorted({key[i] for key in cells}) for i in (0, 1))
    table = np.array([[cells.get((r, c), np.nan) for c in across] for r in down], dtype=np.float64)
    figure, axes = new_figure(1.7 + 0.72 * len(across), 1.2 + 0.52 * len(down))
    reach = float(np.nanmax(np.abs(table))) or 1.0
    scale = {"cmap": "BrBG", "vmin": -reach, "vmax": reach} if signed else {"cmap": "YlGn", "vmin": 0, "vmax": 1}
    axes.imshow(table, aspect="auto", **scale)
    for (i, j), value in np.ndenumerate(table):
        if not np.isnan(value):
            dark = abs(value) > 0.6 * (reach if signed else 1.0)
            text = f"{value:+.2f}" if signed else f"{value:.2f}"
            axes.text(j, i, text, ha="center", va="center", size=9, color="white" if dark else INK)
    axes.set_xticks(range(len(across)), across)
    axes.set_yticks(range(len(down)), down)
    axes.set_xlabel(columns, color=INK)
    axes.set_ylabel(rows, color=INK)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def embedding_map(points: NDArray[np.float64], groups: Sequence[str]) -> Any:
    """(n, 2) points coloured by group; the smallest groups share a grey."""
    figure, axes = new_figure(9.0, 5.4)
    names, counts = np.unique(groups, return_counts=True)
    size = 13 if len(groups) > 600 else 34
    coloured = names[np.argsort(-counts, kind="stable")][: len(GROUPS)].tolist()
    own = np.array(groups)
    rest = ~np.isin(own, coloured)
    if rest.any():
        axes.scatter(*points[rest].T, s=0.7 * size, color="#d3d8dc", linewidths=0, label="others")
    for name, colour in zip(coloured, GROUPS, strict=False):
        axes.scatter(*points[own == name].T, s=size, color=colour, linewidths=0, alpha=0.85, label=name)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), markerscale=1.8)
    return figure


def flatten(vectors: NDArray[np.float32], seed: int) -> NDArray[np.float64]:
    """(n, D) vectors to (n, 2) points whose neighbours are neighbours (t-SNE over cosine distance)."""
    from sklearn.manifold import TSNE

    if len(vectors) < 5:
        return np.asarray(vectors[:, :2], dtype=np.float64)
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    flat = TSNE(perplexity=perplexity, metric="cosine", init="random", random_state=seed).fit_transform(vectors)
    return np.asarray(flat, dtype=np.float64)
