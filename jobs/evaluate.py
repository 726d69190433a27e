"""The verb `skillmatch evaluate` as a job for `ray job submit`; jobs/evaluate.yaml tells the whole command."""

import sys

from skillmatch_ray.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["evaluate"]
    main()
