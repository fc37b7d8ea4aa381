"""A parsed graph while it is mended: nodes are found, added and dropped; weights stay untouched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from shardrank.graph.export import Export, graphs_of, nodes_of


class EditedGraph:
    """The graph of an export, which it changes in place.

    New nodes stand before all others (`front=True`), right before one of the export's own nodes
    (`before=node`), or behind all. Names that are asked for are made unique, since the export's
    own names are not known.
    """

    def __init__(self, export: Export) -> None:
        self.export = export
        self.proto = export.model.graph
        self._initializers = {tensor.name: tensor for tensor in self.proto.initializer}
        self._producers = {name: node for node in self.proto.node for name in node.output if name}
        self._own = list(self.proto.node)
        self._front: list[onnx.NodeProto] = []
        self._dropped: set[int] = set()
        self._before: dict[int, list[onnx.NodeProto]] = {}
        self._back: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._names = {
            name for node in nodes_of(self.proto) for name in (*node.input, *node.output)
        }
        self._names |= self._initializers.keys()

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """The export's own nodes, in order."""
        return self._own

    @property
    def opset(self) -> int:
        """The version of the standard operators."""
        opsets = self.export.model.opset_import
        return int(next(each.version for each in opsets if each.domain in ("", "ai.onnx")))

    @property
    def inputs(self) -> list[onnx.ValueInfoProto]:
        """What a caller must give: graph inputs that are not weights."""
        return [value for value in self.proto.input if value.name not in self._initializers]

    def producer(self, name: str) -> onnx.NodeProto | None:
        """The node that makes a value; None for an input or a weight."""
        return self._producers.get(name)

    def consumers(self, name: str) -> list[onnx.NodeProto]:
        """The export's own nodes that read a value, those of inner graphs included."""
        return [node for node in nodes_of(self.proto) if name in node.input]

    def constant(self, name: str) -> NDArray[Any] | None:
        """The values behind a name where they are fixed, else None.

        Follows Identity, Transpose, Reshape and Cast; a large weight stays mapped, since only a
        Cast copies it.
        """
        if name in self._initializers:
            return self.export.array(self._initializers[name])
        node = self.producer(name)
        if node is None:
            return None
        if node.op_type == "Constant":
            return _constant_value(node)
        fold = _FOLDS.get(node.op_type)
        values = [self.constant(each) for each in node.input] if fold else []
        if fold is None or any(value is None for value in values):
            return None
        return fold(node, [value for value in values if value is not None])

    def rename_uses(self, old: str, new: str) -> None:
        """Let every node of the export that reads `old` read `new`; added nodes keep theirs."""
        self.rename_all({old: new})

    def rename_all(self, names: Mapping[str, str]) -> None:
        """The same for several values at once, whose names may change places."""
        for node in nodes_of(self.proto):
            for place, name in enumerate(node.input):
                if name in names:
                    node.input[place] = names[name]

    def free_name(self, name: str) -> str:
        """Rename a value of the export everywhere, and return its new name."""
        node = self.producer(name)
        if node is None:
            return name
        new = self._unique(name)
        node.output[list(node.output).index(name)] = new
        self.rename_uses(name, new)
        self._producers[new] = self._producers.pop(name)
        return new

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        name: str,
        *,
        domain: str = "",
        front: bool = False,
        before: onnx.NodeProto | None = None,
        num_outputs: int = 1,
        output: str | None = None,
        **attributes: Any,
    ) -> str:
        """Add a node and return its first output.

        output: the exact name of that output; else it is called like the node. Further outputs
        are called name.1, name.2 and so on.
        """
        name = self._unique(name)
        names = [output or name, *(f"{name}.{number}" for number in range(1, num_outputs))]
        made = helper.make_node(
            operator, list(inputs), names, name=name, domain=domain, **attributes
        )
        self._import(domain)
        if before is not None:
            # The export's own nodes are kept alive, so that an id means one of them.
            self._before.setdefault(id(before), []).append(made)
        else:
            (self._front if front else self._back).append(made)
        return names[0]

    def copy(self, node: onnx.NodeProto, inputs: Sequence[str], name: str) -> onnx.NodeProto:
        """Add the same node with other inputs, behind the rest; its attributes may be changed."""
        made = onnx.NodeProto()
        made.CopyFrom(node)
        made.name = self._unique(name)
        del made.input[:], made.output[:]
        made.input.extend(inputs)
        count = len(node.output)
        made.output.extend([made.name, *(f"{made.name}.{place}" for place in range(1, count))])
        self._back.append(made)
        return made

    def weight(self, name: str, values: NDArray[Any]) -> str:
        """Add an initializer."""
        name = self._unique(name)
        # Mapped values are copied, so that the new tensor owns its own.
        self._weights.append(numpy_helper.from_array(np.array(values, order="C"), name))
        return name

    def computed_weight(
        self, name: str, shape: Sequence[int], dtype: Any, make: Callable[[], NDArray[Any]]
    ) -> str:
        """Add an initializer whose values are made when they are written."""
        name = self._unique(name)
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self._weights.append(onnx.TensorProto(name=name, dims=shape, data_type=kind))
        self.export.compute(name, make)
        return name

    def drop_node(self, node: onnx.NodeProto) -> None:
        """Leave out one of the export's own nodes; another makes its outputs."""
        self._dropped.add(id(node))

    def add_input(self, value: onnx.ValueInfoProto) -> None:
        """Let the graph ask for one more input."""
        self.proto.input.append(value)

    def drop_input(self, name: str) -> None:
        """Let the graph no longer ask for an input."""
        kept = [value for value in self.proto.input if value.name != name]
        del self.proto.input[:]
        self.proto.input.extend(kept)

    def finish(self, outputs: Sequence[onnx.ValueInfoProto]) -> None:
        """Set the outputs, and drop every node and weight that none of them needs."""
        nodes = [*self._front]
        for node in self._own:
            nodes += self._before.get(id(node), [])
            nodes += [] if id(node) in self._dropped else [node]
        nodes += self._back
        needed = {value.name for value in outputs}
        kept = []
        for node in reversed(nodes):
            if needed.intersection(node.output):
                kept.append(node)
                needed |= _reads(node)
        inputs = [_copy(value) for value in self.inputs]
        outputs = [_copy(value) for value in outputs]
        kept = [_copy(node) for node in reversed(kept)]
        for field, values in (("node", kept), ("input", inputs), ("output", outputs)):
            self.proto.ClearField(field)
            getattr(self.proto, field).extend(values)
        self.proto.initializer.extend(self._weights)
        # In place, since a copy of all weights would double the memory.
        for place in reversed(range(len(self.proto.initializer))):
            if self.proto.initializer[place].name not in needed:
                del self.proto.initializer[place]
        # Shapes that an exporter noted down hold no longer.
        self.proto.ClearField("value_info")
        self.proto.ClearField("quantization_annotation")

    def _import(self, domain: str) -> None:
        """Say that operators of a domain are used: exporters leave out what they do not need."""
        known = {opset.domain for opset in self.export.model.opset_import}
        if domain and domain not in known:
            self.export.model.opset_import.append(helper.make_opsetid(domain, 1))

    def _unique(self, name: str) -> str:
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes by name, as plain values."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def set_attribute(node: onnx.NodeProto, name: str, value: int) -> None:
    """Change one attribute of a node, or add it."""
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    made = helper.make_attribute(name, value)
    del node.attribute[:]
    node.attribute.extend([*kept, made])


def _reads(node: onnx.NodeProto) -> set[str]:
    """All names that a node and the graphs inside it read."""
    inner = [each for graph in graphs_of(node) for each in nodes_of(graph)]
    outputs = [value.name for graph in graphs_of(node) for value in graph.output]
    return {name for each in [node, *inner] for name in each.input if name} | set(outputs)


def _copy(message: Any) -> Any:
    made = type(message)()
    made.CopyFrom(message)
    return made


def _constant_value(node: onnx.NodeProto) -> NDArray[Any] | None:
    for name, value in attributes_of(node).items():
        if name == "value":
            values: NDArray[Any] = numpy_helper.to_array(value)
            return values
        if name in ("value_int", "value_ints"):
            return np.array(value, np.int64)
        if name in ("value_float", "value_floats"):
            return np.array(value, np.float32)
    return None


def _transpose(node: onnx.NodeProto, values: list[NDArray[Any]]) -> NDArray[Any]:
    return np.transpose(values[0], attributes_of(node).get("perm"))


def _reshape(node: onnx.NodeProto, values: list[NDArray[Any]]) -> NDArray[Any]:
    # 0 keeps a dimension, unless allowzero says that it means none.
    keeps = not attributes_of(node).get("allowzero", 0)
    shape = [
        values[0].shape[place] if size == 0 and keeps else int(size)
        for place, size in enumerate(values[1].tolist())
    ]
    return values[0].reshape(shape)


def _cast(node: onnx.NodeProto, values: list[NDArray[Any]]) -> NDArray[Any]:
    return values[0].astype(helper.tensor_dtype_to_np_dtype(attributes_of(node)["to"]))


def _identity(_: onnx.NodeProto, values: list[NDArray[Any]]) -> NDArray[Any]:
    return values[0]


_FOLDS: dict[str, Callable[[onnx.NodeProto, list[NDArray[Any]]], NDArray[Any]]] = {
    "Cast": _cast,
    "Identity": _identity,
    "Reshape": _reshape,
    "Transpose": _transpose,
}
