"""Gather candidates: `ray job submit --working-dir . -- python jobs/gather.py --run RUN ...`."""

import sys

from shardrank.cli import main

if __name__ == "__main__":
    main(["gather", *sys.argv[1:]], prog_name="gather.py")
