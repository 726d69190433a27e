"""The verb `skillmatch reindex` as a job: `ray job submit --working-dir . -- python jobs/reindex.py` with its arguments."""

import sys

from skillmatch_ray.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["reindex"]
    main()
