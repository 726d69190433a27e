"""The verb `skillmatch nightly` as a job for `ray job submit`; jobs/nightly.yaml tells the whole command."""

import sys

from skillmatch_ray.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["nightly"]
    main()
