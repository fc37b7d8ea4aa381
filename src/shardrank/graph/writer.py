"""An ONNX graph that is written while it is built: nodes are kept, weights go to disk at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from shardrank.engine.model import GRAPH_NAME, WEIGHTS_NAME

OPSET = 21
# Loaded by every onnxruntime that knows opset 21.
IR_VERSION = 10
MICROSOFT = "com.microsoft"

# The page size, so that onnxruntime can map the tensors instead of copying them.
_ALIGNMENT_BYTES = 4096
# Smaller tensors stay in the graph, where shape inference and constant folding can see them.
_INLINE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of a graph: its name, the names or sizes of its axes, and its type."""

    name: str
    axes: tuple[str | int, ...]
    dtype: np.dtype[Any] | type


class GraphWriter:
    """Appends nodes and weights; `save` writes model.onnx.

    folder: gets model.onnx and, where external is True, model.onnx.data.
    external: weights of more than 4 KB go to the data file as they are produced, so no more than
        the blocks in hand are in memory. A protobuf file ends at 2 GB: large models need it.

    Values are named by the node that makes them. The same calls give the same bytes.
    """

    def __init__(self, folder: Path, *, external: bool) -> None:
        self._folder = folder
        self._opset = OPSET
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._data = (folder / WEIGHTS_NAME).open("wb") if external else None

    def __enter__(self) -> GraphWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._data is not None:
            self._data.close()

    def require_opset(self, version: int) -> None:
        """Write the graph in this version of ONNX's own operators, if it is above OPSET."""
        self._opset = max(self._opset, version)

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        name: str,
        *,
        outputs: Sequence[str] | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Append a node and return its first output, which is called like the node."""
        names = [name] if outputs is None else list(outputs)
        self._nodes.append(
            helper.make_node(operator, list(inputs), names, name=name, domain=domain, **attributes)
        )
        return names[0]

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """A tensor that is at hand."""
        return self.weight(name, values.shape, [values], dtype=values.dtype)

    def weight(
        self,
        name: str,
        shape: Sequence[int],
        blocks: Iterable[NDArray[Any]],
        *,
        dtype: np.dtype[Any] | type = np.float32,
    ) -> str:
        """A tensor that comes in blocks of whole rows, in order; written as each block comes."""
        num_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        tensor = onnx.TensorProto(
            name=name, dims=shape, data_type=helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        )
        if self._data is None or num_bytes <= _INLINE_BYTES:
            tensor.raw_data = b"".join(np.ascontiguousarray(block).tobytes() for block in blocks)
        else:
            offset = self._write_blocks(blocks)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (
                ("location", WEIGHTS_NAME), ("offset", offset), ("length", num_bytes)
            ):  # fmt: skip
                tensor.external_data.add(key=key, value=str(value))
        self._initializers.append(tensor)
        return name

    def rewrite(self, change: Callable[[Sequence[onnx.NodeProto]], list[onnx.NodeProto]]) -> None:
        """Replace all nodes by what this makes of them."""
        self._nodes = change(self._nodes)

    def save(
        self,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Write model.onnx; metadata: what the graph says of itself."""
        graph = helper.make_graph(
            self._nodes,
            "shardrank",
            [_value_info(tensor) for tensor in inputs],
            [_value_info(tensor) for tensor in outputs],
            initializer=self._initializers,
        )
        others = sorted({MICROSOFT} | {node.domain for node in self._nodes if node.domain})
        opsets = [helper.make_opsetid("", self._opset)]
        opsets += [helper.make_opsetid(name, 1) for name in others]
        # No version or time in the file: preparing twice gives the same bytes.
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="shardrank"
        )
        helper.set_model_props(model, dict(metadata or {}))
        (self._folder / GRAPH_NAME).write_bytes(model.SerializeToString(deterministic=True))

    def _write_blocks(self, blocks: Iterable[NDArray[Any]]) -> int:
        assert self._data is not None
        offset = -(-self._data.tell() // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        self._data.write(bytes(offset - self._data.tell()))
        for block in blocks:
            # As bytes: Python knows no buffers of bfloat16.
            self._data.write(np.ascontiguousarray(block).view(np.uint8).data)
        return offset


def _value_info(tensor: Tensor) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    return helper.make_tensor_value_info(tensor.name, kind, tensor.axes)
