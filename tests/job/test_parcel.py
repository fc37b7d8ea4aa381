import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from shardrank.job.parcel import Fault, Parcel
from shardrank.types import Rejection, Shard, Unit

SHARD = Shard("a/lang=de/b.parquet", 10, "etag", 7, partition=(("lang", "de"),))
UNIT = Unit(3, SHARD, 0, 7, 140)


def through_arrow(parcel: Parcel) -> Parcel:
    sink = pa.BufferOutputStream()
    table = parcel.to_table()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return Parcel.from_table(pa.ipc.open_stream(sink.getvalue()).read_all())


@given(
    token_ids=st.lists(st.integers(-(2**31), 2**31 - 1)),
    truncated=st.lists(st.booleans()),
    log_odds=st.lists(st.floats(width=32)),
    rows=st.binary(),
)
def test_a_parcel_arrives_as_it_was_sent(token_ids, truncated, log_odds, rows) -> None:
    sent = Parcel(
        UNIT,
        rows=rows,
        token_ids=np.array(token_ids, np.int32),
        truncated=np.array(truncated, np.bool_),
        log_odds=np.array(log_odds, np.float32),
        rejections=(Rejection(1, None, "null_query", "the query is null", 20),),
        engine={"provider": "CPUExecutionProvider"},
        seconds={"read": 0.25},
    )
    got = through_arrow(sent)
    assert bytes(got.rows) == rows
    assert got.token_ids.tolist() == token_ids
    assert got.truncated.tolist() == truncated
    assert np.array_equal(got.log_odds, sent.log_odds, equal_nan=True)
    assert (got.unit, got.rejections) == (UNIT, sent.rejections)
    assert (got.engine, got.seconds) == (sent.engine, sent.seconds)


def test_a_fault_travels_with_its_unit() -> None:
    fault = Fault("not_parquet", "b.parquet is not a Parquet file", permanent=True)
    got = through_arrow(Parcel(UNIT, fault=fault))
    assert (got.unit, got.fault) == (UNIT, fault)


def test_a_unit_of_unknown_length_stays_unknown() -> None:
    unit = Unit(0, Shard("x.parquet", 1, "e", None), 0, None, None)
    assert through_arrow(Parcel(unit)).unit == unit
