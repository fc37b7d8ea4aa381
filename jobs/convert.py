"""Convert shards: `ray job submit --working-dir . -- python jobs/convert.py INPUT ...`."""

import sys

from shardrank.cli import main

if __name__ == "__main__":
    main(["convert", *sys.argv[1:]], prog_name="convert.py")
