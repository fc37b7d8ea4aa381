"""Measure an output: `ray job submit --working-dir . -- python jobs/evaluate.py OUTPUT ...`."""

import sys

from shardrank.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]], prog_name="evaluate.py")
