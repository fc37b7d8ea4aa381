"""Prepare a model: `ray job submit --working-dir . -- python jobs/prepare.py SOURCE ...`."""

import sys

from shardrank.cli import main

if __name__ == "__main__":
    main(["prepare", *sys.argv[1:]], prog_name="prepare.py")
