"""How large dictionaries become once they are spelled out, found without spelling them out."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from shardrank.schema import is_list


def spelled_out_bytes(batch: pa.RecordBatch) -> int:
    """Bytes of a batch when every dictionary is replaced by its values.

    A text of a megabyte that stands in a dictionary once and in ten thousand rows is ten gigabytes
    to everything behind the reader, and one megabyte in the file, its footer and `nbytes`.
    """
    return int(batch.nbytes) + sum(_more(column) for column in batch.columns)


def _more(values: Any) -> int:
    """Bytes that an array gains."""
    data_type = values.type
    if isinstance(values, pa.ExtensionArray):
        return _more(values.storage)
    if pa.types.is_dictionary(data_type):
        if data_type.value_type in _TEXTS:
            lengths = pc.binary_length(values.dictionary).cast(pa.int64())
            return int(pc.sum(lengths.take(values.indices)).as_py() or 0)
        return 0
    if pa.types.is_struct(data_type):
        return sum(_more(child) for child in values.flatten())
    if is_list(data_type):
        return _more(values.flatten())
    return 0


_TEXTS = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())
