"""`ray job submit --working-dir . -- python jobs/train.py --config jobs/train.yaml`: the verb `skillmatch train` as a job."""

import sys

from skillmatch_ray.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["train"]
    main()
