"""Two nodes on one machine; the second goes in mid-run. Arguments: config.json, dataset, model, out, parts."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

os.environ.update(
    RAY_health_check_period_ms="500", RAY_health_check_timeout_ms="1000", RAY_health_check_failure_threshold="4"
)

import ray
from ray.cluster_utils import Cluster

from skillmatch_ray.config import Config
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.files import write_json
from skillmatch_ray.pipeline.encode import encode_freelancers


def main(config: Path, dataset: Path, model_dir: Path, out: Path, moment: int) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    node = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    removed = threading.Event()

    def remove() -> None:
        while len(list(out.glob("part-*.parquet"))) < moment:
            time.sleep(0.02)
        cluster.remove_node(node, allow_graceful=False)
        removed.set()

    threading.Thread(target=remove, daemon=True).start()
    settings = Config.model_validate_json(config.read_text(encoding="utf-8"))
    report = encode_freelancers(settings, Dataset(dataset), model_dir, out)
    # A file: Ray writes about the lost node to standard output whenever it likes.
    write_json(out / "result.json", {"removed": removed.is_set(), "encoded": report.encoded, "rows": report.rows_out})
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:5]), int(sys.argv[5]))
