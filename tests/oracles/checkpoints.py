"""Random checkpoints of the Qwen3 architecture, written without torch and without our own code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@dataclass(frozen=True)
class Shape:
    """The sizes of a checkpoint, and how it is stored.

    untrained: weights as transformers initialises them, normal with 0.02 and norms of ones. Else
        they are larger, so that the attention picks some tokens and passes over others.
    """

    num_layers: int = 2
    hidden: int = 64
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    intermediate: int = 96
    vocab: int = 320
    tied: bool = True
    dtype: str = "float32"
    shards: int = 1
    rope_theta: float = 1e6
    untrained: bool = False

    def config(self) -> dict[str, Any]:
        """config.json as on the model's card."""
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": None,
            "eos_token_id": None,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": 40960,
            "max_window_layers": self.num_layers,
            "model_type": "qwen3",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.num_layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": self.rope_theta,
            "sliding_window": None,
            "tie_word_embeddings": self.tied,
            "torch_dtype": self.dtype,
            "transformers_version": "4.51.3",
            "use_cache": True,
            "use_sliding_window": False,
            "vocab_size": self.vocab,
        }


REAL_SHAPE = Shape(28, 1024, 16, 8, 128, 3072, 151_669, tied=True, dtype="bfloat16", shards=7)


def make_random_checkpoint(folder: Path, shape: Shape = Shape(), seed: int = 0) -> Path:
    """Write config.json, safetensors and tokenizer.json; no more than one shard is in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(shape.config()))
    save_tokenizer(folder / "tokenizer.json")
    random = np.random.default_rng(seed)
    parts = np.array_split(np.arange(shape.num_layers), shape.shards)
    weight_map: dict[str, str] = {}
    for number, layers in enumerate(parts):
        name = "model.safetensors"
        if shape.shards > 1:
            name = f"model-{number + 1:05d}-of-{shape.shards:05d}.safetensors"
        tensors = {
            key: value.astype(DTYPES[shape.dtype])
            for key, value in _tensors(shape, random, layers.tolist(), first=number == 0)
        }
        save_file(tensors, folder / name)
        weight_map |= dict.fromkeys(tensors, name)
    if shape.shards > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def edit_config(folder: Path, **values: object) -> None:
    """Change keys of config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def save_tokenizer(path: Path, without: tuple[str, ...] = ()) -> None:
    """A byte-level tokenizer with Qwen's special tokens and the words yes and no."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *(word for word in ("ye", "yes", "no") if word not in without)]
    merges = [
        pair for pair in (("y", "e"), ("ye", "s"), ("n", "o")) if "".join(pair) not in without
    ]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(
        [
            AddedToken(token, special=token.startswith("<|"), normalized=False)
            for token in SPECIAL_TOKENS
            if token not in without
        ]
    )
    tokenizer.save(str(path))


def _tensors(
    shape: Shape, random: np.random.Generator, layers: list[int], *, first: bool
) -> Iterator[tuple[str, np.ndarray]]:
    """Weights that keep values of about size 1, with norms that are not all ones."""

    def matrix(rows: int, columns: int, scale: float = 1.0) -> np.ndarray:
        values = random.standard_normal((rows, columns), dtype=np.float32)
        if shape.untrained:
            return values * np.float32(0.02)
        return values * np.float32(scale / np.sqrt(columns))

    def norm(size: int, mean: float = 1.0) -> np.ndarray:
        if shape.untrained:
            return np.ones(size, np.float32)
        return (mean + 0.2 * random.standard_normal(size)).astype(np.float32)

    query, key_value = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    if first:
        yield "model.embed_tokens.weight", matrix(shape.vocab, shape.hidden, 2.0)
        yield "model.norm.weight", norm(shape.hidden)
        if not shape.tied:
            yield "lm_head.weight", matrix(shape.vocab, shape.hidden, 2.0)
    for layer in layers:
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", norm(shape.hidden)
        yield f"{prefix}.self_attn.q_proj.weight", matrix(query, shape.hidden)
        yield f"{prefix}.self_attn.k_proj.weight", matrix(key_value, shape.hidden)
        yield f"{prefix}.self_attn.v_proj.weight", matrix(key_value, shape.hidden)
        # Above 1, so that the attention picks some tokens and passes over others.
        yield f"{prefix}.self_attn.q_norm.weight", norm(shape.head_dim, 1.5)
        yield f"{prefix}.self_attn.k_norm.weight", norm(shape.head_dim, 1.5)
        yield f"{prefix}.self_attn.o_proj.weight", matrix(shape.hidden, query)
        yield f"{prefix}.post_attention_layernorm.weight", norm(shape.hidden)
        yield f"{prefix}.mlp.gate_proj.weight", matrix(shape.intermediate, shape.hidden)
        yield f"{prefix}.mlp.up_proj.weight", matrix(shape.intermediate, shape.hidden)
        yield f"{prefix}.mlp.down_proj.weight", matrix(shape.hidden, shape.intermediate)
