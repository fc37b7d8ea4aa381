"""Write a mended export: model.onnx, and for a large one model.onnx.data."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx

from shardrank.engine.model import GRAPH_NAME, WEIGHTS_NAME
from shardrank.errors import ModelError
from shardrank.graph.export import Export, num_bytes

# A protobuf file ends at 2 GB, and onnxruntime can map what lies beside it.
_MAX_SINGLE_FILE_BYTES = 100_000_000
_ALIGNMENT_BYTES = 4096
# Smaller tensors stay in the graph, where shape inference and constant folding can see them.
_INLINE_BYTES = 4096
_BLOCK_BYTES = 1 << 24


def save_graph(export: Export, folder: Path) -> None:
    """Write the graph as it was edited, its weights copied block by block.

    Notes of the exporter (documentation, metadata) are left out: they may hold a machine's paths.
    """
    # Computed ones first: what they are computed from may be moved later.
    weights = sorted(export.model.graph.initializer, key=lambda each: not export.is_computed(each))
    total = sum(_num_bytes(export, tensor) for tensor in weights)
    if total <= _MAX_SINGLE_FILE_BYTES:
        for tensor in weights:
            _embed(export, tensor)
    else:
        with (folder / WEIGHTS_NAME).open("wb") as file:
            for tensor in weights:
                if _num_bytes(export, tensor) <= _INLINE_BYTES:
                    _embed(export, tensor)
                else:
                    _move(export, tensor, file)
    _strip_notes(export.model)
    (folder / GRAPH_NAME).write_bytes(export.model.SerializeToString(deterministic=True))


def _num_bytes(export: Export, tensor: onnx.TensorProto) -> int:
    if export.is_computed(tensor):
        return num_bytes(tensor)
    stored = export.stored(tensor)
    return stored.length if stored else int(tensor.ByteSize())


def _embed(export: Export, tensor: onnx.TensorProto) -> None:
    """Put the bytes of a computed or external tensor into the graph."""
    if export.is_computed(tensor):
        tensor.raw_data = np.ascontiguousarray(export.array(tensor)).tobytes()
    stored = export.stored(tensor)
    if stored is not None:
        with stored.path.open("rb") as file:
            file.seek(stored.offset)
            tensor.raw_data = file.read(stored.length)
        tensor.ClearField("external_data")
        tensor.data_location = onnx.TensorProto.DEFAULT


def _move(export: Export, tensor: onnx.TensorProto, file: BinaryIO) -> None:
    """Copy a tensor's bytes to the end of the data file."""
    offset = -(-file.tell() // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    file.write(bytes(offset - file.tell()))
    stored = export.stored(tensor)
    if stored is not None:
        with stored.path.open("rb") as source:
            source.seek(stored.offset)
            left = stored.length
            while left:
                block = source.read(min(left, _BLOCK_BYTES))
                if not block:
                    raise ModelError(f"{stored.path} ends within {tensor.name}; download it again.")
                file.write(block)
                left -= len(block)
    elif tensor.HasField("raw_data"):
        file.write(tensor.raw_data)
    else:
        # Computed values, and those in one of protobuf's typed fields.
        file.write(np.ascontiguousarray(export.array(tensor)).reshape(-1).view(np.uint8).data)
    length = file.tell() - offset
    moved = onnx.TensorProto(
        name=tensor.name,
        dims=tensor.dims,
        data_type=tensor.data_type,
        data_location=onnx.TensorProto.EXTERNAL,
    )
    for key, value in (("location", WEIGHTS_NAME), ("offset", offset), ("length", length)):
        moved.external_data.add(key=key, value=str(value))
    tensor.CopyFrom(moved)


def _strip_notes(model: onnx.ModelProto) -> None:
    model.ClearField("metadata_props")
    model.ClearField("doc_string")
    model.graph.ClearField("doc_string")
    for node in model.graph.node:
        node.ClearField("doc_string")
        if hasattr(node, "metadata_props"):
            node.ClearField("metadata_props")
