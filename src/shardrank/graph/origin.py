"""What an export tells about its model: in its graph, and in the files beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from shardrank.engine.model import TOKENIZER_NAME
from shardrank.errors import ModelError
from shardrank.graph.cache import is_past
from shardrank.graph.edited import EditedGraph, attributes_of
from shardrank.graph.head import Head
from shardrank.graph.weights import read_json

_CONFIG = "config.json"
_GENAI_CONFIG = "genai_config.json"
_MODEL_TYPE = "qwen3"
# Inputs that hold a table of cosines, one row a position.
_TABLE_PLACES = {"GroupQueryAttention": 7, "RotaryEmbedding": 2}
# The context of the published rerankers, for an export that does not say.
_MAX_POSITIONS = 40_960
_DYNAMIC = ("DynamicQuantizeLinear", "DynamicQuantizeMatMul")
# At larger blocks, and at other accuracy levels, a row's last bits move with the number of rows.
_STEADY_BLOCK = 32
_STEADY_LEVEL = 4


@dataclass(frozen=True, slots=True)
class Origin:
    """What was found about an export.

    architecture: for reranker.json; a size that is written nowhere is left out.
    max_positions: the longest row that the graph takes; Qwen3's own limit where none is written.
    precision: "fp32", "fp16", "bf16", "dynamic-int8", or "q4", "q8" after the bits of MatMulNBits:
        the names of the model card's files.
    dynamic: True where activations are quantized with one scale for the whole batch.
    batch_dependent: True if a row's logits move with its neighbours, in their last bits at least.
    """

    architecture: dict[str, Any]
    max_positions: int
    precision: str
    dynamic: bool
    batch_dependent: bool

    def converted(self, precision: str) -> Origin:
        """The same in a precision whose products do not depend on the number of rows."""
        return replace(self, precision=precision, dynamic=False, batch_dependent=False)


def find_beside(export: Path, name: str) -> Path | None:
    """A file in the export's folder or in its parent: hub repositories keep onnx/model.onnx."""
    for folder in (export.parent, export.absolute().parent.parent):
        if (folder / name).is_file():
            return folder / name
    return None


def find_tokenizer(export: Path) -> Path:
    """The tokenizer.json that belongs to an export; raises ModelError if there is none."""
    path = find_beside(export, TOKENIZER_NAME)
    if path is None:
        raise ModelError(
            f"neither {export.parent} nor the folder above it holds {TOKENIZER_NAME}; copy the one "
            f"of the same model beside {export.name}."
        )
    return path


def read_origin(graph: EditedGraph, head: Head, logits: onnx.ValueInfoProto) -> Origin:
    """Collect what graph, config.json and genai_config.json say.

    Raises ModelError if a configuration names another architecture than Qwen3: its prompt and its
    answers would be another model's.
    """
    config = _config(graph.export.path)
    # The attention sees an even number of columns (rows.align_rows).
    limits = [len(table) // 2 * 2 for table in _tables(graph)]
    limits.append(config.get("max_positions", _MAX_POSITIONS))
    dynamic = any(node.op_type in _DYNAMIC for node in graph.nodes)
    precision = _precision(graph, logits, dynamic)
    return Origin(
        architecture={
            "model_type": config.pop("model_type", "unknown"),
            **_sizes(graph),
            **config,
            "vocabulary_size": head.vocabulary_size,
        },
        max_positions=min(limits),
        precision=precision,
        dynamic=dynamic,
        # A GPU's libraries choose a kernel for half precision by the number of rows.
        batch_dependent=dynamic
        or precision in ("fp16", "bf16")
        or any(_is_unsteady(node) for node in graph.nodes),
    )


def _tables(graph: EditedGraph) -> Iterator[Any]:
    for node in graph.nodes:
        place = _TABLE_PLACES.get(node.op_type)
        if place is not None and place < len(node.input) and node.input[place]:
            table = graph.constant(node.input[place])
            if table is not None:
                yield table


def _sizes(graph: EditedGraph) -> dict[str, Any]:
    """Sizes that the graph's inputs and attention nodes show."""
    sizes: dict[str, Any] = {}
    past = [value for value in graph.inputs if is_past(value)]
    fused = [node for node in graph.nodes if node.op_type == "GroupQueryAttention"]
    if past or fused:
        sizes["num_layers"] = len(fused) or len(past) // 2
    for table in _tables(graph):
        sizes["head_size"] = 2 * table.shape[1]
    if past:
        dims = past[0].type.tensor_type.shape.dim
        for name, place in (("num_key_value_heads", 1), ("head_size", 3)):
            if dims[place].dim_value:
                sizes[name] = dims[place].dim_value
    if fused:
        attributes = attributes_of(fused[0])
        sizes["num_heads"] = attributes["num_heads"]
        sizes["num_key_value_heads"] = attributes["kv_num_heads"]
    return sizes


def _config(export: Path) -> dict[str, Any]:
    """Names of reranker.json for what the files beside an export say."""
    path = find_beside(export, _CONFIG)
    genai = find_beside(export, _GENAI_CONFIG)
    found: dict[str, Any] = {}
    if path is not None:
        values = read_json(path)
        names = {
            "model_type": "model_type", "num_hidden_layers": "num_layers",
            "hidden_size": "hidden_size", "num_attention_heads": "num_heads",
            "num_key_value_heads": "num_key_value_heads", "head_dim": "head_size",
            "intermediate_size": "intermediate_size", "max_position_embeddings": "max_positions",
        }  # fmt: skip
    elif genai is not None:
        path = genai
        model = read_json(genai).get("model")
        values = model if isinstance(model, dict) else {}
        decoder = values.get("decoder")
        values = {**values, **(decoder if isinstance(decoder, dict) else {})}
        names = {
            "type": "model_type", "num_hidden_layers": "num_layers", "hidden_size": "hidden_size",
            "num_attention_heads": "num_heads", "num_key_value_heads": "num_key_value_heads",
            "head_size": "head_size", "context_length": "max_positions",
        }  # fmt: skip
    else:
        return found
    for theirs, ours in names.items():
        value = values.get(theirs)
        kind = str if ours == "model_type" else int
        if isinstance(value, kind) and not isinstance(value, bool):
            found[ours] = value
    if found.get("model_type", _MODEL_TYPE) != _MODEL_TYPE:
        raise ModelError(
            f"{path} says that the model is {found['model_type']!r}; only exports of "
            f"{_MODEL_TYPE!r} causal language models can be scored with this prompt."
        )
    return found


def _precision(graph: EditedGraph, logits: onnx.ValueInfoProto, dynamic: bool) -> str:
    if dynamic:
        return "dynamic-int8"
    bits = {attributes_of(n).get("bits", 4) for n in graph.nodes if n.op_type == "MatMulNBits"}
    if bits:
        return f"q{min(bits)}"
    kind = logits.type.tensor_type.elem_type
    names = {onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}
    return names.get(kind, "fp32")


def _is_unsteady(node: onnx.NodeProto) -> bool:
    if node.op_type != "MatMulNBits":
        return False
    attributes = attributes_of(node)
    block_size, level = int(attributes["block_size"]), int(attributes.get("accuracy_level", 0))
    return block_size > _STEADY_BLOCK or level != _STEADY_LEVEL
