"""config.json is honoured to the letter or refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from oracles.checkpoints import REAL_SHAPE, Shape
from shardrank.errors import ModelError
from shardrank.graph.architecture import Architecture, parse_architecture

CONFIG = Shape().config()


def parse(**changes: Any) -> Architecture:
    return parse_architecture({**CONFIG, **changes})


def test_the_card_s_config_is_read() -> None:
    architecture = parse_architecture(REAL_SHAPE.config())
    assert architecture.as_dict() == {
        "model_type": "qwen3",
        "num_layers": 28,
        "hidden_size": 1024,
        "num_heads": 16,
        "num_key_value_heads": 8,
        "head_size": 128,
        "intermediate_size": 3072,
        "vocabulary_size": 151_669,
        "max_positions": 40_960,
        "tied_head": True,
        "rope_theta": 1e6,
        "norm_epsilon": 1e-6,
    }
    assert architecture.num_parameters == 595_776_512


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "llama"),
        ("model_type", None),
        ("architectures", ["Qwen3ForSequenceClassification"]),
        ("architectures", ["Qwen3MoeForCausalLM"]),
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}),
        ("rope_scaling", {"type": "linear", "factor": 2.0}),
        ("rope_scaling", "yarn"),
        ("rope_parameters", {"rope_type": "dynamic", "rope_theta": 1e6, "factor": 2.0}),
        ("rope_parameters", {"rope_type": "default", "partial_rotary_factor": 0.5}),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("use_sliding_window", True),
        ("layer_types", ["full_attention", "sliding_attention"]),
        ("hidden_act", "gelu"),
        ("quantization_config", {"quant_method": "gptq", "bits": 4}),
        ("num_labels", 1),
        ("a_setting_of_tomorrow", 1),
        ("num_key_value_heads", 3),
        ("num_hidden_layers", 0),
        ("hidden_size", None),
        ("vocab_size", "320"),
        ("head_dim", 33),
        ("rms_norm_eps", 0),
        ("rope_theta", None),
        ("tie_word_embeddings", "yes"),
    ],
)
def test_what_the_graph_would_not_honour_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ModelError, match=rf"config\.json has {key} = "):
        parse(**{key: value})


def test_a_classification_head_is_told_to_come_as_the_original_checkpoint() -> None:
    with pytest.raises(ModelError, match="give the original checkpoint"):
        parse(architectures=["Qwen3ForSequenceClassification"])


def test_an_unknown_setting_without_a_value_changes_nothing() -> None:
    assert parse(a_setting_of_tomorrow=None) == parse()


def test_the_rotary_base_is_read_where_transformers_5_writes_it() -> None:
    config = {key: value for key, value in CONFIG.items() if key != "rope_theta"}
    parameters = {"rope_type": "default", "rope_theta": 12_345.0}
    assert parse_architecture({**config, "rope_parameters": parameters}).rope_theta == 12_345.0


def test_a_window_that_is_not_used_is_no_window() -> None:
    assert parse(use_sliding_window=False, sliding_window=4096) == parse()
