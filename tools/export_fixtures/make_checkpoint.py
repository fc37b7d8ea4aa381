"""Write a small random checkpoint of the Qwen3 architecture, in Hugging Face's layout.

python make_checkpoint.py OUTPUT [--untied]

Needs numpy, safetensors and tokenizers. The same seed gives the same bytes. The weights are
float32 that bfloat16 represents exactly, as the published checkpoints are bfloat16.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import ByteLevel
from tokenizers.trainers import BpeTrainer

FloatArray = NDArray[np.float32]

SEED = 20
NUM_LAYERS = 2
HIDDEN_SIZE = 64
NUM_HEADS = 4
NUM_KEY_VALUE_HEADS = 2
HEAD_SIZE = 32
INTERMEDIATE_SIZE = 96
VOCABULARY_SIZE = 397
MAX_POSITIONS = 256

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
ADDED_TOKENS = ("<think>", "</think>")
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TRAINING_TEXT = (
    "system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".',
    "user\n<Instruct>: Given a web search query, retrieve relevant passages that answer the query",
    "<Query>: how does it work\n\n<Document>: it is\nassistant\n\n\n\n",
    "yes no yes no",
    "The capital of the country is on the river. Gravity is a force that attracts two bodies.",
)


def build_tokenizer() -> Tokenizer:
    """A byte-level BPE with Qwen3's pre-tokenizer, its special tokens last in the vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = ByteLevel(trim_offsets=False)
    trainer = BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(SPECIAL_TOKENS) - len(ADDED_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # "yes" and "no" as answers begin no word with a space: weigh them so that both are merged.
    tokenizer.train_from_iterator([*TRAINING_TEXT, *["yes", "no"] * 50], trainer)
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS]
    )
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in ADDED_TOKENS])
    for answer in ("yes", "no"):
        if len(tokenizer.encode(answer).ids) != 1:
            raise ValueError(f"{answer!r} is not a single token")
    if tokenizer.get_vocab_size() != VOCABULARY_SIZE:
        raise ValueError(f"{tokenizer.get_vocab_size()} tokens, expected {VOCABULARY_SIZE}")
    return tokenizer


def bfloat16_values(array: NDArray[np.float64]) -> FloatArray:
    """float32 with the lower half of each mantissa rounded away."""
    bits = array.astype(np.float32).view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    return (rounded & np.uint32(0xFFFF0000)).view(np.float32)


def make_weights(tied: bool) -> dict[str, FloatArray]:
    """Random weights under transformers' names, scaled so that the attention matters."""
    random = np.random.default_rng(SEED)

    def matrix(num_rows: int, num_columns: int, gain: float) -> FloatArray:
        deviation = gain / np.sqrt(num_columns)
        return bfloat16_values(random.normal(0.0, deviation, (num_rows, num_columns)))

    def norm(size: int, low: float, high: float) -> FloatArray:
        return bfloat16_values(random.uniform(low, high, size))

    query_size = NUM_HEADS * HEAD_SIZE
    key_value_size = NUM_KEY_VALUE_HEADS * HEAD_SIZE
    weights = {"model.embed_tokens.weight": matrix(VOCABULARY_SIZE, HIDDEN_SIZE, 2.0)}
    for layer in range(NUM_LAYERS):
        prefix = f"model.layers.{layer}."
        weights |= {
            prefix + "input_layernorm.weight": norm(HIDDEN_SIZE, 0.5, 1.5),
            prefix + "self_attn.q_proj.weight": matrix(query_size, HIDDEN_SIZE, 1.0),
            prefix + "self_attn.k_proj.weight": matrix(key_value_size, HIDDEN_SIZE, 1.0),
            prefix + "self_attn.v_proj.weight": matrix(key_value_size, HIDDEN_SIZE, 1.5),
            prefix + "self_attn.o_proj.weight": matrix(HIDDEN_SIZE, query_size, 1.5),
            prefix + "self_attn.q_norm.weight": norm(HEAD_SIZE, 0.8, 2.2),
            prefix + "self_attn.k_norm.weight": norm(HEAD_SIZE, 0.8, 2.2),
            prefix + "post_attention_layernorm.weight": norm(HIDDEN_SIZE, 0.5, 1.5),
            prefix + "mlp.gate_proj.weight": matrix(INTERMEDIATE_SIZE, HIDDEN_SIZE, 1.0),
            prefix + "mlp.up_proj.weight": matrix(INTERMEDIATE_SIZE, HIDDEN_SIZE, 1.0),
            prefix + "mlp.down_proj.weight": matrix(HIDDEN_SIZE, INTERMEDIATE_SIZE, 1.0),
        }
    weights["model.norm.weight"] = norm(HIDDEN_SIZE, 0.5, 1.5)
    if not tied:
        weights["lm_head.weight"] = matrix(VOCABULARY_SIZE, HIDDEN_SIZE, 2.0)
    return weights


def make_config(tokenizer: Tokenizer, tied: bool) -> dict[str, object]:
    """config.json as transformers writes it for Qwen3ForCausalLM."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
        "head_dim": HEAD_SIZE,
        "hidden_act": "silu",
        "hidden_size": HIDDEN_SIZE,
        "initializer_range": 0.02,
        "intermediate_size": INTERMEDIATE_SIZE,
        "max_position_embeddings": MAX_POSITIONS,
        "max_window_layers": NUM_LAYERS,
        "model_type": "qwen3",
        "num_attention_heads": NUM_HEADS,
        "num_hidden_layers": NUM_LAYERS,
        "num_key_value_heads": NUM_KEY_VALUE_HEADS,
        "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": tied,
        "torch_dtype": "float32",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": VOCABULARY_SIZE,
    }


def make_tokenizer_config() -> dict[str, object]:
    """tokenizer_config.json, which the exporters want to see beside tokenizer.json."""
    return {
        "add_prefix_space": False,
        "eos_token": "<|im_end|>",
        "model_max_length": MAX_POSITIONS,
        "pad_token": "<|endoftext|>",
        "padding_side": "left",
        "tokenizer_class": "Qwen2Tokenizer",
    }


def write_checkpoint(folder: Path, tied: bool) -> None:
    """Write config.json, tokenizer.json, tokenizer_config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in (
        ("config.json", make_config(tokenizer, tied)),
        ("tokenizer_config.json", make_tokenizer_config()),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    weights = save(make_weights(tied), metadata={"format": "pt"})
    (folder / "model.safetensors").write_bytes(weights)


def main() -> None:
    """Read the command line and write the checkpoint."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--untied", action="store_true", help="a head of its own")
    arguments = parser.parse_args()
    write_checkpoint(arguments.output, tied=not arguments.untied)


if __name__ == "__main__":
    main()
