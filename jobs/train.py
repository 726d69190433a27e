"""The verb `skillmatch train` as a job: `ray job submit --working-dir . -- python jobs/train.py` with its arguments."""

import sys

from skillmatch_ray.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["train"]
    main()
