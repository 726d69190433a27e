"""The page of a study: Markdown with tables, plots and sentences, all written from the runs."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from skillmatch_ray.dataset import TABLES, Dataset
from skillmatch_ray.evaluation.bootstrap import Values
from skillmatch_ray.files import hash_files, hash_json, write_json, write_text
from skillmatch_ray.studies.contrasts import Difference, compare_runs, conclude, runs_interval, shared_confidence
from skillmatch_ray.studies.runner import Outcome, settings_of
from skillmatch_ray.studies.study import METRICS, Contrast, Run, Study, Variant, table
from skillmatch_ray.workspace import versions

METRIC_LABELS = {"map": "MAP"}


def write_page(outcome: Outcome) -> Path:
    """Write NAME.md, its plots and figures.json into the study's directory; the path of the page."""
    out = outcome.places.out
    conclusions = conclusions_of(outcome)
    parts = [
        f"# Study: {outcome.study.name}\n\n{outcome.study.question}",
        "## Conclusions\n\n" + "\n".join(f"- {sentence}" for sentence in conclusions),
        f"{_reading(outcome)}",
        "## Figures\n\n" + _table_of_variants(outcome),
        *_plot(outcome),
        *(outcome.study.more(outcome.runs, out) if outcome.study.more else []),
        "## Setting\n\n" + table(("what", "value"), _provenance(outcome).items()),
    ]
    page = out / f"{outcome.study.name}.md"
    write_text(page, "\n\n".join(parts) + "\n")
    figures = {"conclusions": conclusions, "setting": _provenance(outcome), "variants": _means(outcome)}
    write_json(out / "figures.json", figures)
    return page


def conclusions_of(outcome: Outcome) -> list[str]:
    """One sentence for each contrast of the study."""
    contrasts, confidence = outcome.study.contrasts, shared_confidence(len(outcome.study.contrasts))
    return [_conclude(outcome, contrast, confidence) for contrast in contrasts]


def difference(outcome: Outcome, contrast: Contrast, confidence: float) -> Difference:
    """First - second variant of a contrast, over the seeds that both ran with."""
    first, second = (grouped(outcome.runs)[name] for name in (contrast.first, contrast.second))
    seeds = sorted({run.seed for run in first} & {run.seed for run in second})
    matrices = [
        matrix([run for run in runs if run.seed in seeds], contrast.metric, _rows(first[0], contrast.subset))
        for runs in (first, second)
    ]
    return compare_runs(matrices[0], matrices[1], outcome.config.seed, confidence)


def grouped(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs of each variant, in the order of their seeds."""
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.seed):
        groups[run.variant].append(run)
    return dict(groups)


def matrix(runs: Sequence[Run], metric: str, rows: Sequence[int] | None = None) -> Values:
    """(S, Q) figures of the runs of one variant; NaN where a project has none."""
    values: Values = np.array([run.values[metric] for run in runs], dtype=np.float64)
    return values if rows is None else values[:, list(rows)]


def _rows(run: Run, subset: str) -> list[int] | None:
    if not subset:
        return None
    wanted = set(run.subsets[subset])
    return [q for q, project in enumerate(run.projects) if project in wanted]


def _conclude(outcome: Outcome, contrast: Contrast, confidence: float) -> str:
    first, second = (outcome.study.by_name[name].label for name in (contrast.first, contrast.second))
    if contrast.subset and not grouped(outcome.runs)[contrast.first][0].subsets.get(contrast.subset):
        return f"{first} against {second}: no judged project is in {contrast.subset!r}, so nothing can be said."
    found = difference(outcome, contrast, confidence)
    metric = METRIC_LABELS.get(contrast.metric, contrast.metric)
    return conclude(first, second, f"{metric} ({contrast.subset})" if contrast.subset else metric, found)


def _reading(outcome: Outcome) -> str:
    runs = f"{outcome.seeds} {'seed' if outcome.seeds == 1 else 'seeds'}"
    lines = [
        f"Headline variants ran with {runs}, the others with one.",
        "Intervals are bootstraps over the judged projects, paired between variants, and over seeds where there are",
        "several (of whose spread three seeds give no more than a hint). The conclusions' intervals hold together with",
        "95 %.",
        *outcome.study.notes,
    ]
    return "\n".join(f"> {line}" for line in lines)


def _table_of_variants(outcome: Outcome) -> str:
    header = ("variant", "seeds", "MAP [95 % interval]", *METRICS[1:])
    rows = []
    for name, block in _means(outcome).items():
        low, high = block["interval"]
        cells = [f"{block[metric]:.3f}" for metric in METRICS]
        label = outcome.study.by_name[name].label
        rows.append((label, str(block["seeds"]), f"{cells[0]} [{low:.3f}, {high:.3f}]", *cells[1:]))
    return table(header, rows)


def _means(outcome: Outcome) -> dict[str, dict[str, Any]]:
    """Variant -> mean of each metric, interval of MAP, number of seeds, further figures."""
    result = {}
    for name, runs in grouped(outcome.runs).items():
        if not runs[0].projects:
            continue
        block: dict[str, Any] = {
            metric: round(float(np.nanmean(matrix(runs, metric))), 4) for metric in runs[0].values if _any(runs, metric)
        }
        block["interval"] = runs_interval(matrix(runs, "map"), outcome.config.seed)
        block["seeds"] = len(runs)
        block["figures"] = {key: float(np.mean([run.figures[key] for run in runs])) for key in runs[0].figures}
        result[name] = block
    return result


def _any(runs: Sequence[Run], metric: str) -> bool:
    return bool(np.isfinite(matrix(runs, metric)).any())


def _provenance(outcome: Outcome) -> dict[str, str]:
    dataset = Dataset(outcome.places.dataset)
    settings = settings_of(outcome.config)
    projects = len(outcome.runs[0].projects)
    training = outcome.config.training
    seconds = sum(run.seconds for run in outcome.runs)
    return {
        "dataset": f"{dataset.root.name}, {hash_files([p for kind in TABLES for p in dataset.parts(kind)])[:12]}",
        "judged projects": str(projects),
        "training": f"{training.steps} steps of {training.projects_per_step} projects, "
        f"{_head(outcome.config.model.layers)}, unless a variant says otherwise",
        "seeds": f"{outcome.config.seed} to {outcome.config.seed + outcome.seeds - 1}",
        "effort": f"{len(outcome.runs)} runs, {seconds:.0f} s of work in all; {outcome.fresh} of them in this call, in "
        f"{outcome.seconds:.0f} s",
        "machine": machine(),
        "configuration": f"{hash_json(settings)[:12]}{' (--full)' if outcome.full else ''}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }


def _head(layers: int) -> str:
    return f"{layers} transformer layers" if layers else "no transformer layer (the rest of the head only)"


def machine() -> str:
    """Processor, cores and memory, in words."""
    memory = psutil.virtual_memory().total / 2**30
    return f"{processor()}, {psutil.cpu_count()} logical CPUs, {memory:.0f} GB"


def processor() -> str:
    """Name of the processor, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _plot(outcome: Outcome) -> list[str]:
    """One picture: curves where variants lie on an axis, bars elsewhere."""
    from matplotlib.figure import Figure

    means, study = _means(outcome), outcome.study
    curves = _curves(study, means)
    height = 4.5 if curves else 1 + 0.4 * len(means)
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.subplots()
    if curves:
        _draw_curves(axes, curves, means)
        axes.set_xlabel(study.axis)
        axes.set_ylabel("MAP")
    else:
        _draw_bars(axes, [(study.by_name[name].label, block) for name, block in means.items()])
        axes.set_xlabel("MAP, 95 % interval")
    figure.savefig(outcome.places.out / f"{study.name}.png", dpi=110)
    return [f"![MAP of the variants]({study.name}.png)"]


def _curves(study: Study, means: Mapping[str, Any]) -> dict[str, list[Variant]]:
    """Variants of each curve; one on the axis without a curve of its own is a point of all."""
    placed = [variant for variant in study.variants if variant.x is not None and variant.name in means]
    shared = [variant for variant in placed if not variant.curve]
    names = dict.fromkeys(variant.curve for variant in placed if variant.curve)
    return {name: [*shared, *(variant for variant in placed if variant.curve == name)] for name in names}


def _draw_curves(axes: Any, curves: Mapping[str, Sequence[Variant]], means: Mapping[str, Mapping[str, Any]]) -> None:
    for name, variants in curves.items():
        ordered = sorted(variants, key=lambda variant: variant.x or 0.0)
        blocks = [means[variant.name] for variant in ordered]
        axes.errorbar(
            [variant.x for variant in ordered],
            [block["map"] for block in blocks],
            yerr=_arms(blocks),
            label=name,
            marker="o",
            capsize=2,
        )
    axes.legend(fontsize="small")


def _draw_bars(axes: Any, bars: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    blocks = [block for _, block in bars]
    axes.barh([label for label, _ in bars], [block["map"] for block in blocks], xerr=_arms(blocks), color="#4c78a8")
    axes.invert_yaxis()


def _arms(blocks: Sequence[Mapping[str, Any]]) -> Any:
    """(2, n) distances of the intervals' ends from the means."""
    ends = [[block["map"] - block["interval"][0], block["interval"][1] - block["map"]] for block in blocks]
    return np.array(ends).T.clip(min=0)
