"""Qwen3 in plain numpy: the outside oracle of graphs that were built.

Written from the Qwen3 technical report (arXiv 2505.09388), for one prompt without padding; shares
no line with shardrank. tests/graph/test_transformers.py holds it against transformers.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file


class NumpyQwen3:
    """A checkpoint's decoder, in float32.

    folder: config.json and *.safetensors.
    """

    def __init__(self, folder: Path) -> None:
        self.config = json.loads((folder / "config.json").read_text())
        self.weights: dict[str, np.ndarray] = {}
        for path in sorted(folder.glob("*.safetensors")):
            for name, tensor in load_file(path).items():
                self.weights[name.removeprefix("model.")] = tensor.astype(np.float32)

    def logits(self, token_ids: np.ndarray, yes_id: int, no_id: int) -> np.ndarray:
        """(yes, no) at the last token, float32 [2], of int [num_tokens]."""
        values = self.weights["embed_tokens.weight"][token_ids]
        for layer in range(self.config["num_hidden_layers"]):
            values = self._layer(values, f"layers.{layer}")
        last = self._norm(values[-1], "norm")
        tied = self.config["tie_word_embeddings"]
        head = self.weights["embed_tokens.weight" if tied else "lm_head.weight"]
        return head[[yes_id, no_id]] @ last

    def log_odds(self, token_ids: np.ndarray, yes_id: int, no_id: int) -> float:
        """The logit of yes minus the logit of no."""
        yes, no = self.logits(token_ids, yes_id, no_id)
        return float(yes - no)

    def _layer(self, values: np.ndarray, name: str) -> np.ndarray:
        values = values + self._attention(
            self._norm(values, f"{name}.input_layernorm"), f"{name}.self_attn"
        )
        normed = self._norm(values, f"{name}.post_attention_layernorm")
        gate = self._linear(normed, f"{name}.mlp.gate_proj")
        up = self._linear(normed, f"{name}.mlp.up_proj")
        return values + self._linear(gate / (1 + np.exp(-gate)) * up, f"{name}.mlp.down_proj")

    def _attention(self, values: np.ndarray, name: str) -> np.ndarray:
        size, num_tokens = self.config["head_dim"], len(values)

        def heads(kind: str) -> np.ndarray:
            return self._linear(values, f"{name}.{kind}_proj").reshape(num_tokens, -1, size)

        query = self._rotate(self._norm(heads("q"), f"{name}.q_norm"))
        key = self._rotate(self._norm(heads("k"), f"{name}.k_norm"))
        group = self.config["num_attention_heads"] // self.config["num_key_value_heads"]
        key, value = np.repeat(key, group, axis=1), np.repeat(heads("v"), group, axis=1)
        # [heads, num_tokens, size] from here on.
        query, key, value = (part.swapaxes(0, 1) for part in (query, key, value))
        scores = query @ key.swapaxes(1, 2) / np.float32(np.sqrt(size))
        scores = np.where(np.tri(num_tokens, dtype=bool), scores, np.float32(-np.inf))
        odds = np.exp(scores - scores.max(axis=-1, keepdims=True))
        odds /= odds.sum(axis=-1, keepdims=True)
        mixed = (odds @ value).swapaxes(0, 1).reshape(num_tokens, -1)
        return self._linear(mixed, f"{name}.o_proj")

    def _rotate(self, heads: np.ndarray) -> np.ndarray:
        """Rotary positions on [num_tokens, heads, size]; the halves of a head are the pairs."""
        num_tokens, _, size = heads.shape
        theta = self.config["rope_theta"]
        frequencies = theta ** (-np.arange(size // 2, dtype=np.float64) * 2 / size)
        angles = np.outer(np.arange(num_tokens), frequencies)[:, None, :]
        cosine, sine = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        left, right = heads[..., : size // 2], heads[..., size // 2 :]
        return np.concatenate([left * cosine - right * sine, right * cosine + left * sine], axis=-1)

    def _norm(self, values: np.ndarray, name: str) -> np.ndarray:
        mean = np.mean(values * values, axis=-1, keepdims=True)
        epsilon = np.float32(self.config["rms_norm_eps"])
        return values / np.sqrt(mean + epsilon) * self.weights[f"{name}.weight"]

    def _linear(self, values: np.ndarray, name: str) -> np.ndarray:
        return values @ self.weights[f"{name}.weight"].T
