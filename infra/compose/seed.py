"""Put the built-in candidates into a bucket: `python seed.py s3://BUCKET/FOLDER`."""

import sys
import time
from pathlib import Path

import s3fs

import shardrank

CANDIDATES = Path(shardrank.__file__).parent / "demo" / "candidates"


def main(url: str) -> None:
    bucket, _, folder = url.removeprefix("s3://").partition("/")
    store = s3fs.S3FileSystem(use_listings_cache=False)
    for _ in range(60):
        try:
            store.mkdir(bucket)
            break
        except FileExistsError:
            break
        except OSError as error:
            print(f"waiting for the store: {error}", flush=True)
            time.sleep(1)
    for shard in sorted(CANDIDATES.glob("*.parquet")):
        store.put_file(str(shard), f"{bucket}/{folder}/{shard.name}")
        print(f"put {url}/{shard.name}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
