"""The verb `skillmatch encode` as a job: `ray job submit --working-dir . -- python jobs/encode.py` with its arguments."""

import sys

from skillmatch_ray.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["encode"]
    main()
