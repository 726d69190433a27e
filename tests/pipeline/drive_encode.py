"""A driver to be killed: encode with a local Ray of its own. Arguments: config.json, dataset, model, out."""

from __future__ import annotations

import sys
from pathlib import Path

from skillmatch_ray.config import Config
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.pipeline.encode import encode_freelancers

if __name__ == "__main__":
    config, dataset, model_dir, out = map(Path, sys.argv[1:])
    settings = Config.model_validate_json(config.read_text(encoding="utf-8"))
    report = encode_freelancers(settings, Dataset(dataset), model_dir, out)
    sys.stdout.write(report.summary() + "\n")
