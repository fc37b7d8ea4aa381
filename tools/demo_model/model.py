"""The Qwen3 architecture in plain torch, with the tensor names of a Hugging Face checkpoint.

Written for training many documents against one query: tokens come in segments (the fixed head of
the prompt, the queries, the documents), and each segment attends to the ones before it, whose keys
are computed once and shared. The arithmetic is that of transformers' Qwen3ForCausalLM on the joined
tokens.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

CONFIG: dict[str, object] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 128,
    "initializer_range": 0.02,
    "intermediate_size": 320,
    "max_position_embeddings": 8192,
    "max_window_layers": 4,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 100000000.0,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 11008,
}


@dataclass(frozen=True)
class Segment:
    """Right-padded tokens [rows, length] with their positions and which of them are real."""

    ids: Tensor
    positions: Tensor
    valid: Tensor


class RMSNorm(nn.Module):
    """Root mean square normalisation over the last axis."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def rotary(positions: Tensor, size: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [rows, 1, length, size] of the rotary position encoding."""
    rates = theta ** (-torch.arange(0, size, 2, dtype=torch.float32) / size)
    angles = positions[:, None, :, None].float() * torch.cat((rates, rates))
    return angles.cos(), angles.sin()


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Turns each half-split pair of features by its token's angle."""
    low, high = x.chunk(2, dim=-1)
    return x * angles[0] + torch.cat((-high, low), dim=-1) * angles[1]


def share(x: Tensor, rows: int) -> Tensor:
    """Repeats each row of an earlier segment for the rows of a later one that continue it."""
    if x.shape[0] == rows:
        return x
    times = rows // x.shape[0]
    return x[:, None].expand(-1, times, *x.shape[1:]).reshape(rows, *x.shape[1:])


class Attention(nn.Module):
    """Grouped-query attention with per-head normalised queries and keys."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        hidden, self.size = config["hidden_size"], config["head_dim"]
        heads, pairs = config["num_attention_heads"], config["num_key_value_heads"]
        self.q_proj = nn.Linear(hidden, heads * self.size, bias=False)
        self.k_proj = nn.Linear(hidden, pairs * self.size, bias=False)
        self.v_proj = nn.Linear(hidden, pairs * self.size, bias=False)
        self.o_proj = nn.Linear(heads * self.size, hidden, bias=False)
        self.q_norm = RMSNorm(self.size, config["rms_norm_eps"])
        self.k_norm = RMSNorm(self.size, config["rms_norm_eps"])

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.size)).transpose(1, 2)

    def forward(
        self, x: Tensor, angles: tuple[Tensor, Tensor], past: list[Tensor], mask: Tensor
    ) -> tuple:
        query = rotate(
            self.q_norm(self.q_proj(x).unflatten(-1, (-1, self.size))).transpose(1, 2), angles
        )
        key = rotate(
            self.k_norm(self.k_proj(x).unflatten(-1, (-1, self.size))).transpose(1, 2), angles
        )
        cache = torch.stack((key, self.split(self.v_proj(x))), dim=1)
        keys, values = torch.cat(
            [*(share(part, x.shape[0]) for part in past), cache], dim=3
        ).unbind(1)
        groups = query.shape[1] // keys.shape[1]
        out = functional.scaled_dot_product_attention(
            query,
            keys.repeat_interleave(groups, 1),
            values.repeat_interleave(groups, 1),
            attn_mask=mask,
        )
        return self.o_proj(out.transpose(1, 2).flatten(2)), cache


class MLP(nn.Module):
    """The gated feed-forward part."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One decoder layer."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config["hidden_size"], config["rms_norm_eps"])
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config["hidden_size"], config["rms_norm_eps"])
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, angles: tuple[Tensor, Tensor], past: list[Tensor], mask: Tensor
    ) -> tuple:
        attended, cache = self.self_attn(self.input_layernorm(x), angles, past, mask)
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x)), cache


class Reranker(nn.Module):
    """The decoder with yes and no as the only columns of its tied head."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        self.norm = RMSNorm(config["hidden_size"], config["rms_norm_eps"])

    def hidden(self, segments: list[Segment]) -> list[Tensor]:
        """The last segment's hidden states after each layer (not normalised)."""
        masks, states, angles = [], [], []
        for at, part in enumerate(segments):
            rows, length = part.ids.shape
            causal = torch.ones(length, length, dtype=torch.bool).tril() & part.valid[:, None]
            before = [
                share(past.valid, rows)[:, None].expand(-1, length, -1) for past in segments[:at]
            ]
            masks.append(torch.cat([*before, causal], dim=2)[:, None])
            states.append(self.embed_tokens(part.ids))
            angles.append(
                rotary(part.positions, self.config["head_dim"], self.config["rope_theta"])
            )
        collected = []
        for layer in self.layers:
            past: list[Tensor] = []
            for at in range(len(segments)):
                states[at], cache = layer(states[at], angles[at], past, masks[at])
                past.append(cache)
            collected.append(states[-1])
        return collected

    def log_odds(self, last: Tensor, yes: int, no: int) -> Tensor:
        """Logit of yes minus logit of no for the last tokens' hidden states [rows, hidden]."""
        head = self.embed_tokens.weight
        return self.norm(last) @ (head[yes] - head[no])

    def save(self, folder: Path) -> None:
        """Writes config.json and model.safetensors as transformers reads them."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(
            json.dumps(self.config, indent=2) + "\n", encoding="utf-8"
        )
        tensors = {
            f"model.{name}": value.detach().contiguous()
            for name, value in self.state_dict().items()
        }
        partial = folder / "model.safetensors.partial"
        save_file(tensors, partial, metadata={"format": "pt"})
        partial.replace(folder / "model.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Reranker:
        """Reads a checkpoint that `save` wrote."""
        model = cls(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        tensors = load_file(folder / "model.safetensors")
        model.load_state_dict(
            {name.removeprefix("model."): value for name, value in tensors.items()}
        )
        return model
