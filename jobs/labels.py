"""Make training labels: `ray job submit --working-dir . -- python jobs/labels.py OUTPUT ...`."""

import sys

from shardrank.cli import main

if __name__ == "__main__":
    main(["labels", *sys.argv[1:]], prog_name="labels.py")
