"""Whether two columns hold the same values, whatever Arrow types they come in.

This shares no code with what wrote the rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_UNSIGNED = {16: pa.uint16(), 32: pa.uint32(), 64: pa.uint64()}


def bare(values: Any) -> pa.Array:
    """The values as one array of few types, in which equal bits are equal values.

    Texts are bytes and never decoded, dictionaries are spelled out, floats are their bits (so that
    NaN is itself), every list is a large list.
    """
    if isinstance(values, pa.ChunkedArray):
        parts = [bare(chunk) for chunk in values.chunks]
        return pa.concat_arrays(parts) if parts else bare(pa.array([], values.type))
    if isinstance(values, pa.ExtensionArray):
        return bare(values.storage)
    data_type = values.type
    if pa.types.is_dictionary(data_type):
        return bare(values.dictionary_decode())
    if pa.types.is_floating(data_type):
        return values.view(_UNSIGNED[data_type.bit_width])
    if pa.types.is_struct(data_type):
        children = [bare(child) for child in values.flatten()]
        names = [field.name for field in data_type]
        return pa.StructArray.from_arrays(children, names=names, mask=values.is_null())
    if pa.types.is_nested(data_type):
        return _bare_list(values)
    if any(is_bytes(data_type) for is_bytes in _BYTES):
        return values.cast(pa.large_binary())
    return values


_BYTES = (
    pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view,
    pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view,
)  # fmt: skip


def _bare_list(values: Any) -> pa.Array:
    """Any kind of list, and maps, as a large list."""
    if pa.types.is_map(values.type):
        # The offsets of a slice begin where it begins; what null entries hide is not shown.
        starts = values.offsets.to_numpy()
        lengths = np.where(values.is_null(), 0, np.diff(starts))
        places = np.repeat(starts[:-1] - (np.cumsum(lengths) - lengths), lengths)
        taken = pa.array(places + np.arange(len(places)))
        keys, items = bare(values.keys).take(taken), bare(values.items).take(taken)
        children = pa.StructArray.from_arrays([keys, items], names=["key", "value"])
    else:
        lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
        children = bare(values.flatten())
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return pa.LargeListArray.from_arrays(
        pa.array(offsets, pa.int64()), children, mask=values.is_null()
    )


def same(expected: pa.Array, found: pa.Array) -> bool:
    """Whether two bare arrays are equal; a type of another width is the same if its values are."""
    if expected.type != found.type:
        try:
            found = found.cast(expected.type)
        except pa.ArrowException:
            return False
    return bool(expected.equals(found))


def numbered(names: list[str]) -> list[tuple[str, int]]:
    """Names that may repeat, each with how often it came before."""
    return [(name, names[:i].count(name)) for i, name in enumerate(names)]
