"""What config.json says about a Qwen3 decoder, and what of it the graph cannot honour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from shardrank.errors import ModelError

_MODEL_TYPE = "qwen3"
_CLASS_NAME = "Qwen3ForCausalLM"
# What transformers takes where config.json is silent.
_DEFAULT_HEAD_SIZE = 128
_DEFAULT_ROPE_THETA = 10_000.0
_DEFAULT_MAX_POSITIONS = 32_768
_DEFAULT_NORM_EPSILON = 1e-6

# The values that the graph computes with, read by name in `parse_architecture`.
_HONOURED = frozenset({
    "model_type", "architectures", "num_hidden_layers", "hidden_size", "num_attention_heads",
    "num_key_value_heads", "head_dim", "intermediate_size", "vocab_size",
    "max_position_embeddings", "tie_word_embeddings", "rope_theta", "rope_parameters",
    "rope_scaling", "rms_norm_eps", "layer_types",
})  # fmt: skip

# One value each is what the graph computes.
_REQUIRED: dict[str, object] = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,
    "is_encoder_decoder": False,
}

# Training, generation and bookkeeping: no effect on the logits of one forward pass.
_WITHOUT_EFFECT = frozenset({
    "_name_or_path", "_attn_implementation", "attention_dropout", "bos_token_id", "dtype",
    "eos_token_id", "initializer_range", "max_window_layers", "output_attentions",
    "output_hidden_states", "pad_token_id", "pretraining_tp", "return_dict", "sliding_window",
    "torch_dtype", "transformers_version", "unsloth_version", "use_cache",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Architecture:
    """The sizes and constants of a Qwen3 decoder.

    num_key_value_heads divides num_heads; head_size is even and independent of hidden_size;
    max_positions is the longest prompt that the model was made for; tied_head is True where the
    head's rows are the embedding's.
    """

    num_layers: int
    hidden_size: int
    num_heads: int
    num_key_value_heads: int
    head_size: int
    intermediate_size: int
    vocabulary_size: int
    max_positions: int
    tied_head: bool
    rope_theta: float
    norm_epsilon: float

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.num_heads * self.head_size

    @property
    def key_value_size(self) -> int:
        """Width of all key heads (or all value heads) together."""
        return self.num_key_value_heads * self.head_size

    @property
    def num_parameters(self) -> int:
        """Number of weights, without the head."""
        attention = 2 * self.hidden_size * (self.query_size + self.key_value_size)
        mlp = 3 * self.hidden_size * self.intermediate_size
        norms = 2 * (self.hidden_size + self.head_size)
        table = self.vocabulary_size * self.hidden_size
        return table + self.num_layers * (attention + mlp + norms) + self.hidden_size

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, led by model_type, ready for JSON."""
        return {"model_type": _MODEL_TYPE, **asdict(self)}


def parse_architecture(config: Mapping[str, Any]) -> Architecture:
    """Read config.json, as transformers 4.51 or later writes it.

    Raises ModelError naming the first key whose value the graph would not honour, unknown keys
    included: a setting that is passed over in silence is a wrong score without an error.
    """
    _refuse_other_models(config)
    _refuse_unknown_keys(config)
    for name, value in _REQUIRED.items():
        if config.get(name, value) != value:
            raise _refusal(name, config[name], f"the graph computes with {value!r} only")
    _refuse_sliding_layers(config)
    architecture = Architecture(
        num_layers=_size(config, "num_hidden_layers"),
        hidden_size=_size(config, "hidden_size"),
        num_heads=_size(config, "num_attention_heads"),
        num_key_value_heads=_size(config, "num_key_value_heads"),
        head_size=_size(config, "head_dim", _DEFAULT_HEAD_SIZE),
        intermediate_size=_size(config, "intermediate_size"),
        vocabulary_size=_size(config, "vocab_size"),
        max_positions=_size(config, "max_position_embeddings", _DEFAULT_MAX_POSITIONS),
        tied_head=_flag(config, "tie_word_embeddings", False),
        rope_theta=_rope_theta(config),
        norm_epsilon=_positive(config, "rms_norm_eps", _DEFAULT_NORM_EPSILON),
    )
    if architecture.num_heads % architecture.num_key_value_heads:
        raise _refusal(
            "num_key_value_heads",
            architecture.num_key_value_heads,
            f"it must divide num_attention_heads = {architecture.num_heads}",
        )
    if architecture.head_size % 2:
        raise _refusal("head_dim", architecture.head_size, "rotary positions need an even number")
    return architecture


def _refusal(name: str, value: object, reason: str) -> ModelError:
    return ModelError(f"config.json has {name} = {value!r}: {reason}.")


def _refuse_other_models(config: Mapping[str, Any]) -> None:
    if config.get("model_type") != _MODEL_TYPE:
        raise _refusal(
            "model_type", config.get("model_type"), f"only {_MODEL_TYPE!r} checkpoints can be built"
        )
    # Checkpoints without an architecture (bare decoders) are judged by their tensors.
    if config.get("architectures") not in (None, [], [_CLASS_NAME]):
        raise _refusal(
            "architectures",
            config["architectures"],
            f"only [{_CLASS_NAME!r}] can be built; a converted classification head scores "
            f"otherwise, so give the original checkpoint",
        )


def _refuse_unknown_keys(config: Mapping[str, Any]) -> None:
    known = _HONOURED | _REQUIRED.keys() | _WITHOUT_EFFECT
    for name, value in sorted(config.items()):
        if name not in known and value is not None:
            raise _refusal(name, value, "the graph does not know this setting and cannot honour it")


def _refuse_sliding_layers(config: Mapping[str, Any]) -> None:
    kinds = config.get("layer_types") or []
    for kind in kinds:
        if kind != "full_attention":
            raise _refusal("layer_types", kind, "the graph computes full attention in every layer")


def _rope_theta(config: Mapping[str, Any]) -> float:
    """The base of the rotary positions, from either of the two places where it is written."""
    parameters: dict[str, Any] = {}
    # transformers 4 writes rope_theta and rope_scaling, transformers 5 writes rope_parameters.
    for name in ("rope_scaling", "rope_parameters"):
        values = config.get(name) or {}
        if not isinstance(values, dict):
            raise _refusal(name, values, "an object is needed")
        kind = values.get("rope_type", values.get("type", "default"))
        extra = sorted(values.keys() - {"rope_type", "type", "rope_theta"})
        if kind != "default" or extra:
            raise _refusal(
                name, values, "the graph computes default rotary positions, without scaling"
            )
        parameters.update(values)
    if "rope_theta" in parameters:
        return _positive(parameters, "rope_theta", _DEFAULT_ROPE_THETA)
    return _positive(config, "rope_theta", _DEFAULT_ROPE_THETA)


def _size(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _refusal(name, value, "a whole number of at least 1 is needed")
    return value


def _positive(config: Mapping[str, Any], name: str, default: float) -> float:
    value = config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise _refusal(name, value, "a positive number is needed")
    return float(value)


def _flag(config: Mapping[str, Any], name: str, default: bool) -> bool:
    value = config.get(name, default)
    if not isinstance(value, bool):
        raise _refusal(name, value, "true or false is needed")
    return value
