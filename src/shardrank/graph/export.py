"""Somebody else's ONNX export, opened without trusting it, its tensors read where they lie."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from shardrank.errors import ModelError
from shardrank.graph.writer import MICROSOFT

_DOMAINS = ("", "ai.onnx", MICROSOFT)
# Two values a byte.
_PACKED = (
    onnx.TensorProto.INT4, onnx.TensorProto.UINT4, onnx.TensorProto.FLOAT4E2M1,
)  # fmt: skip
# The first in which Squeeze and ReduceSum take their axes as inputs, as the mending writes them.
_OLDEST_OPSET = 13


@dataclass(frozen=True, slots=True)
class Stored:
    """Where an external tensor lies: `length` bytes from `offset` of `path`."""

    path: Path
    offset: int
    length: int


class Export:
    """The graph of an .onnx file, and its tensors, inside the file or beside it.

    path: the file, as the user named it.
    model: the parsed protobuf; whoever edits it owns it.
    files: names of the files that tensors lie in, the .onnx file first, for the record of the
        source.

    Raises ModelError if the file is no ONNX model, if an operator is outside the standard and
    com.microsoft, or if external data is missing, truncated or outside the folder. Links are
    followed only inside the folder, and in the Hugging Face cache from snapshots to blobs.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = _parse(path)
        self.files = [path.name]
        self._stored: dict[str, Stored] = {}
        self._computed: dict[str, Callable[[], NDArray[Any]]] = {}
        _refuse_foreign_operators(self.model, path)
        _refuse_old_opset(self.model, path)
        _refuse_disorder(self.model.graph, path)
        for tensor in self.model.graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                self._locate(tensor)
        for tensor in _inner_tensors(self.model):
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                raise ModelError(
                    f"{path}: tensor {tensor.name!r} of a node, not of the graph, lies outside "
                    f"the file; export again with the weights as initializers."
                )

    def stored(self, tensor: onnx.TensorProto) -> Stored | None:
        """Where an external tensor lies; None for one inside the .onnx file."""
        return self._stored.get(tensor.name)

    def compute(self, name: str, make: Callable[[], NDArray[Any]]) -> None:
        """Let the values of a new tensor be made each time that they are asked for.

        The weights of a large model in another precision need not be in memory together.
        """
        self._computed[name] = make

    def is_computed(self, tensor: onnx.TensorProto) -> bool:
        """Whether a tensor has no bytes of its own."""
        return tensor.name in self._computed

    def array(self, tensor: onnx.TensorProto) -> NDArray[Any]:
        """The values of a tensor, of the tensor's shape; external ones are mapped, not read."""
        if tensor.name in self._computed:
            return self._computed[tensor.name]()
        stored = self.stored(tensor)
        if stored is None:
            values: NDArray[Any] = numpy_helper.to_array(tensor)
            return values
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if math.prod(tensor.dims) == 0:
            return np.zeros(tuple(tensor.dims), dtype)
        return np.memmap(stored.path, dtype, "r", stored.offset, tuple(tensor.dims))

    def _locate(self, tensor: onnx.TensorProto) -> None:
        """Check an external tensor's place against the folder and the file."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        path = _resolve(self.path, location, tensor.name)
        length = num_bytes(tensor)
        try:
            offset = int(entries.get("offset", 0))
            stated = int(entries.get("length", length))
            file_bytes = path.stat().st_size
        except ValueError as error:
            raise ModelError(
                f"{self.path}: the place of {tensor.name} is not a number ({error}); export again."
            ) from error
        except OSError as error:
            raise ModelError(
                f"{self.path}: {tensor.name} lies in {location}, which cannot be read "
                f"({error.strerror}); download the file into the same folder."
            ) from error
        if min([offset, *tensor.dims]) < 0 or stated != length or offset + length > file_bytes:
            raise ModelError(
                f"{self.path}: {tensor.name} needs {length} bytes and has bytes {offset} to "
                f"{offset + stated} of {file_bytes} in {location}, which is truncated or of "
                f"another export; download both files again."
            )
        if location not in self.files:
            self.files.append(location)
        self._stored[tensor.name] = Stored(path, offset, length)


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes of a graph and of the graphs inside its nodes."""
    for node in graph.node:
        yield node
        for inner in graphs_of(node):
            yield from nodes_of(inner)


def graphs_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that are attributes of a node (If, Loop, Scan)."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _parse(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load_model_from_string(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    except DecodeError as error:
        raise ModelError(
            f"{path} is not an ONNX file, or is truncated ({error}); download it again."
        ) from error


def _refuse_foreign_operators(model: onnx.ModelProto, path: Path) -> None:
    """Operators of other domains need code of their own, which comes from nobody's file."""
    functions = [node for function in model.functions for node in function.node]
    inner = [each for node in functions for graph in graphs_of(node) for each in nodes_of(graph)]
    for node in [*nodes_of(model.graph), *functions, *inner]:
        if node.domain not in _DOMAINS:
            raise ModelError(
                f"{path}: node {node.name!r} is {node.domain}.{node.op_type}, an operator outside "
                f"ONNX and {MICROSOFT}; give an export without custom operators."
            )


def _refuse_old_opset(model: onnx.ModelProto, path: Path) -> None:
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version < _OLDEST_OPSET:
            raise ModelError(
                f"{path} uses opset {opset.version}; export again with opset {_OLDEST_OPSET} or "
                f"later."
            )


def _refuse_disorder(graph: onnx.GraphProto, path: Path) -> None:
    """A value that is read before it is made could go in a circle, and so would a walk back."""
    to_come = {name for node in graph.node for name in node.output if name}
    for node in graph.node:
        early = to_come.intersection(node.input)
        if early:
            raise ModelError(
                f"{path}: node {node.name!r} reads {min(early)} before it is made, so this is no "
                f"valid ONNX graph; export again."
            )
        to_come.difference_update(node.output)


def _inner_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Tensors that are not initializers of the graph: of nodes, inner graphs and functions."""
    nodes = [*nodes_of(model.graph), *(node for f in model.functions for node in f.node)]
    for sparse in model.graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
        for graph in graphs_of(node):
            yield from graph.initializer


def _resolve(model: Path, location: str, tensor: str) -> Path:
    """The file behind a tensor's location, if it belongs to the model's folder."""
    folder = model.parent
    parts = PurePosixPath(location)
    is_inside = bool(location) and not parts.is_absolute() and ".." not in parts.parts
    if is_inside and "\\" not in location and ":" not in location:
        path = (folder / location).resolve()
        if any(path.is_relative_to(root) for root in _roots(folder)):
            return path
    raise ModelError(
        f"{model}: {tensor} lies in {location!r}, outside the model's folder; a model's files must "
        f"lie beside it, so copy them there and export again."
    )


def _roots(folder: Path) -> list[Path]:
    """The folder, and in a Hugging Face cache the blobs that its snapshots link to."""
    folder = folder.resolve()
    snapshots = [parent for parent in folder.parents if parent.name == "snapshots"]
    return [folder, *(parent.parent / "blobs" for parent in snapshots[:1])]


def num_bytes(tensor: onnx.TensorProto) -> int:
    """What the values of a tensor take, by its shape and type."""
    count: int = math.prod(tensor.dims)
    if tensor.data_type in _PACKED:
        return (count + 1) // 2
    dtype: np.dtype[Any] = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return count * dtype.itemsize
