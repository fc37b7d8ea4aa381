"""What planning keeps of the files that it has looked at."""

import gc
from pathlib import Path

import pyarrow.parquet as pq

from shardrank.config import InputColumns
from shardrank.store.footers import read_footers
from shardrank.store.units import list_shards
from tables import row, write_nested


def test_a_footer_that_was_read_leaves_no_file_behind(tmp_path: Path) -> None:
    """Arrow holds an error, whose frames would hold the file: 54 kB a shard, for ever."""
    for number in range(40):
        rows = [row(number) for number in range(4)]
        write_nested(tmp_path / f"{number}.parquet", rows, row_group_size=1)
    source, shards = list_shards(str(tmp_path))
    footers = read_footers(source, shards, "nested", InputColumns())
    gc.collect()
    assert [footer.shard.path for footer in footers] == [shard.path for shard in shards]
    assert [len(footer.row_groups) for footer in footers] == [4] * 40
    assert not [found for found in gc.get_objects() if isinstance(found, pq.ParquetFile)]
