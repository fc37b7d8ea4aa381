"""The Qwen3 decoder as an ONNX graph that says yes or no.

Follows the Qwen3 technical report (arXiv 2505.09388): pre-norm blocks, grouped-query attention with
an RMS norm on every query and key head, rotary positions, SwiGLU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import helper

from shardrank.engine.layouts import OPERATOR_DOMAIN
from shardrank.errors import ModelError
from shardrank.graph.architecture import Architecture
from shardrank.graph.layout import Layout
from shardrank.graph.linear import Linear
from shardrank.graph.weights import Checkpoint, cast_weights
from shardrank.graph.writer import MICROSOFT, GraphWriter
from shardrank.types import Float32Array

_EMBEDDING = "embed_tokens.weight"
_HEAD = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class Qwen3Graph:
    """Writes the graph of one checkpoint, weights included.

    layout: inputs, outputs, and the attention between them. linear, dtype: the matrix products,
        and the type of what flows between them.
    yes_id, no_id: the two rows of the head that are kept, in this order.
    max_tokens: the longest row that the graph takes.

    Output, besides those of the layout: logits, float32 [batch, 2], (yes, no) at each prompt's
    last token.
    """

    writer: GraphWriter
    checkpoint: Checkpoint
    architecture: Architecture
    layout: Layout
    linear: Linear
    dtype: np.dtype[Any]
    yes_id: int
    no_id: int
    max_tokens: int

    def build(self) -> None:
        """Write model.onnx and its weights; raises ModelError if tensors and config disagree."""
        num_layers = self.architecture.num_layers
        self.checkpoint.require(tensor_shapes(self.architecture))
        head = self._head()
        self._rotary_tables()
        residual = self._embed()
        normed = self._norm(residual, "layers.0.input_layernorm")
        for layer in range(num_layers):
            prefix = f"layers.{layer}"
            is_last = layer == num_layers - 1
            attended = self._attention(normed, f"{prefix}.self_attn", layer)
            if is_last:
                # Only the last token is asked for, and all that follows works token by token.
                attended = self.layout.last(attended)
                residual = self.layout.last(residual)
            (projected,) = self.linear.apply(attended, [f"{prefix}.self_attn.o_proj"])
            normed, residual = self._add_norm(
                residual, projected, f"{prefix}.post_attention_layernorm"
            )
            moved = self._mlp(normed, f"{prefix}.mlp")
            following = "norm" if is_last else f"layers.{layer + 1}.input_layernorm"
            normed, residual = self._add_norm(residual, moved, following)
        # Two columns cost nothing, and logits close to each other stay apart in float32.
        if self.dtype != np.float32:
            normed = self._cast(normed, np.dtype(np.float32), "norm.float32")
        self.writer.node("MatMul", [normed, head], "logits")
        self.layout.save("logits")

    def _head(self) -> str:
        """The rows of yes and no, transposed: float32 [hidden, 2]."""
        ids = (self.yes_id, self.no_id)
        source = _EMBEDDING if self.architecture.tied_head else _HEAD
        rows = _pick_rows(self.checkpoint, source, ids)
        # Tied checkpoints may hold the head a second time; then both must say the same.
        if _HEAD in self.checkpoint.names and not np.array_equal(
            rows, _pick_rows(self.checkpoint, _HEAD, ids)
        ):
            raise ModelError(
                f"config.json has tie_word_embeddings = True, and {_HEAD} differs from "
                f"{_EMBEDDING}; set it to false if the head was trained apart."
            )
        return self.writer.constant("head", np.ascontiguousarray(rows.T))

    def _embed(self) -> str:
        """Rows of the table, which keeps its own type where that is the exact one.

        For 0.6B in bfloat16 that saves 0.3 GB of file and of memory against float32, and only the
        rows that are used are cast.
        """
        shape = self.architecture
        is_narrow = self.dtype != np.float32
        dtype = self.dtype if is_narrow else self.checkpoint.dtype(_EMBEDDING)
        table = self.writer.weight(
            _EMBEDDING,
            (shape.vocabulary_size, shape.hidden_size),
            (
                cast_weights(block, dtype, _EMBEDDING)
                for block in self.checkpoint.blocks(_EMBEDDING)
            ),
            dtype=dtype,
        )
        if dtype == self.dtype:
            return self.writer.node("Gather", [table, self.layout.ids()], "embed_tokens")
        stored = self.writer.node("Gather", [table, self.layout.ids()], "embed_tokens.stored")
        return self._cast(stored, self.dtype, "embed_tokens")

    def _rotary_tables(self) -> None:
        shape = self.architecture
        # The attention sees an even number of columns (packed_rows.pack_rows).
        num_positions = self.max_tokens + self.max_tokens % 2
        cosines, sines = rotary_tables(num_positions, shape.head_size, shape.rope_theta)
        self.writer.constant("rotary.cosines", cosines.astype(self._head_dtype))
        self.writer.constant("rotary.sines", sines.astype(self._head_dtype))

    @property
    def _head_dtype(self) -> np.dtype[Any]:
        """Of rotary tables, and of the weights that norm heads within the attention."""
        return np.dtype(np.float32) if self.layout.operators else self.dtype

    def _attention(self, values: str, name: str, layer: int) -> str:
        shape = self.architecture
        query, key, value = self.linear.apply(
            values, [f"{name}.q_proj", f"{name}.k_proj", f"{name}.v_proj"]
        )
        if self.layout.norms_heads:
            for norm in ("q_norm", "k_norm"):
                self._norm_weight(f"{name}.{norm}", self._head_dtype)
        else:
            query = self._head_norm(query, f"{name}.q_norm", shape.num_heads)
            key = self._head_norm(key, f"{name}.k_norm", shape.num_key_value_heads)
        return self.layout.attend(query, key, value, name, layer)

    def _mlp(self, values: str, name: str) -> str:
        weights = f"{name}.gate_proj", f"{name}.up_proj"
        product = self.linear.apply_gated(values, *weights, f"{name}.product")
        if product is None:
            gate, up = self.linear.apply(values, weights)
            product = self._gate(gate, up, name)
        (moved,) = self.linear.apply(product, [f"{name}.down_proj"])
        return moved

    def _gate(self, gate: str, up: str, name: str) -> str:
        product = f"{name}.product"
        if self.layout.operators:
            return self.writer.node("SiluProduct", [gate, up], product, domain=OPERATOR_DOMAIN)
        # With alpha 1 this is SiLU, in one pass.
        activated = self.writer.node(
            "QuickGelu", [gate], f"{name}.activated", domain=MICROSOFT, alpha=1.0
        )
        return self.writer.node("Mul", [activated, up], product)

    def _cast(self, values: str, dtype: np.dtype[Any], name: str) -> str:
        return self.writer.node("Cast", [values], name, to=helper.np_dtype_to_tensor_dtype(dtype))

    def _norm_weight(self, name: str, dtype: np.dtype[Any] | None = None) -> str:
        values = self.checkpoint.read(f"{name}.weight")
        return self.writer.constant(
            f"{name}.weight", cast_weights(values, dtype or self.dtype, f"{name}.weight")
        )

    def _norm(self, values: str, name: str) -> str:
        return self.writer.node(
            "SimplifiedLayerNormalization",
            [values, self._norm_weight(name)],
            name,
            axis=-1,
            epsilon=self.architecture.norm_epsilon,
        )

    def _head_norm(self, values: str, name: str, num_heads: int) -> str:
        """Normalise each head apart: [..., heads x size], before and after."""
        size = self.architecture.head_size
        tokens = [0] * self.layout.num_axes
        apart = self.writer.constant(f"{name}.apart", np.array([*tokens, num_heads, size]))
        whole = self.writer.constant(f"{name}.whole", np.array([*tokens, num_heads * size]))
        heads = self.writer.node("Reshape", [values, apart], f"{name}.heads")
        return self.writer.node("Reshape", [self._norm(heads, name), whole], f"{name}.joined")

    def _add_norm(self, residual: str, values: str, name: str) -> tuple[str, str]:
        """The norm of the sum, and the sum."""
        total = f"{name}.sum"
        if self.layout.operators == "cpu":
            return self.writer.node(
                "SumNorm",
                [residual, values, self._norm_weight(name)],
                name,
                outputs=[name, total],
                domain=OPERATOR_DOMAIN,
                epsilon=self.architecture.norm_epsilon,
            ), total
        if self.dtype == np.float32:
            # Twice as fast on CPUs as the two in one node.
            self.writer.node("Sum", [residual, values], total)
            return self._norm(total, name), total
        normed = self.writer.node(
            "SkipSimplifiedLayerNormalization",
            [residual, values, self._norm_weight(name)],
            name,
            outputs=[name, "", "", total],
            domain=MICROSOFT,
            epsilon=self.architecture.norm_epsilon,
        )
        return normed, total


def tensor_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Every tensor that a checkpoint of this architecture holds, and its shape."""
    hidden, middle = architecture.hidden_size, architecture.intermediate_size
    query, key_value = architecture.query_size, architecture.key_value_size
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (query, hidden),
        "self_attn.k_proj": (key_value, hidden),
        "self_attn.v_proj": (key_value, hidden),
        "self_attn.q_norm": (architecture.head_size,),
        "self_attn.k_norm": (architecture.head_size,),
        "self_attn.o_proj": (hidden, query),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (middle, hidden),
        "mlp.up_proj": (middle, hidden),
        "mlp.down_proj": (hidden, middle),
    }
    shapes: dict[str, tuple[int, ...]] = {
        f"layers.{number}.{name}.weight": shape
        for number in range(architecture.num_layers)
        for name, shape in layer.items()
    }
    shapes |= {_EMBEDDING: (architecture.vocabulary_size, hidden), "norm.weight": (hidden,)}
    if not architecture.tied_head:
        shapes[_HEAD] = shapes[_EMBEDDING]
    return shapes


def rotary_tables(
    num_positions: int, head_size: int, theta: float
) -> tuple[Float32Array, Float32Array]:
    """Cosines and sines, float32 [num_positions, head_size / 2] each (arXiv 2104.09864).

    The angles are rounded to float32, as the model was trained with and as transformers does.
    """
    exponents = np.arange(0, head_size, 2, dtype=np.float32) / np.float32(head_size)
    frequencies = np.float32(1) / np.float32(theta) ** exponents
    angles = np.outer(np.arange(num_positions, dtype=np.float32), frequencies).astype(np.float64)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _pick_rows(checkpoint: Checkpoint, name: str, ids: tuple[int, ...]) -> Float32Array:
    return np.concatenate([checkpoint.read_rows(name, number, number + 1) for number in ids])
