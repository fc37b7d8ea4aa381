"""Rerank Parquet shards: `ray job submit --working-dir . -- python jobs/rerank.py JOB.toml`."""

import sys

from shardrank.cli import main

if __name__ == "__main__":
    main(["rerank", *sys.argv[1:]], prog_name="rerank.py")
