"""Opening Milvus leaves the rest of the process as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHILD = """
import logging.handlers, sys
from pathlib import Path
from skillmatch_ray.config import MilvusSettings
from skillmatch_ray.index.backend import Backend

serves = logging.handlers.MemoryHandler(1, target=logging.FileHandler(sys.argv[1] + "/log"))
logging.getLogger("of.others").addHandler(serves)
with Backend(MilvusSettings(), Path(sys.argv[1]) / "index.db", "a test"):
    logging.getLogger("of.others").warning("after the import")
"""


def test_the_import_of_the_client_closes_no_log_handler(tmp_path: Path) -> None:
    """As Ray Serve has one in each replica; in a process of its own, where nothing has imported the client yet."""
    subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], check=True, timeout=300)
    assert (tmp_path / "log").read_text() == "after the import\n"
