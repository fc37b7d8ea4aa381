"""The layouts of a graph: which inputs it takes, and what they are called."""

from __future__ import annotations

LAYOUTS = ("padded", "fused", "prefix", "fused-prefix", "paged")
"""padded: left-padded input_ids and attention_mask. fused: the same, with shardrank's own operators
for GPUs (engine.operators). prefix: as padded, plus past and present. fused-prefix: the same, with
shardrank's own operators for CPUs. paged: prompts behind each other, without padding
(graph.paged)."""

OUTPUT_NAME = "logits"
"""float32 [prompts, 2] of (yes, no), in every layout."""

OPERATOR_DOMAIN = "shardrank"
"""Of the operators in engine/native."""

PAGED_INPUTS = (
    "input_ids",
    "cumulative_sequence_length",
    "past_seqlens",
    "block_table",
    "attention_metadata",
)
PAGED_CACHES = ("key_cache", "value_cache")
"""Inputs of the layout `paged`: those of a batch, and the scratch that it works in."""


BATCHES_PAST = {"past": "batched"}
"""What a graph says of itself whose past has as many rows as there are prompts."""
SHARES_PAST = {"past": "shared"}
"""What a graph says of itself whose past is of one row, for prompts of any number."""


KEEPS_PAST = "keeps_past"
"""Input of the layout `fused-prefix`, int64 [1]: 1 where present is asked for, else 0."""


def past_names(layer: int) -> tuple[str, str]:
    """Inputs of the layout `prefix`: keys and values of the tokens before."""
    return f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"


def present_names(layer: int) -> tuple[str, str]:
    """Outputs of the layout `prefix`: keys and values of the tokens before and of these."""
    return f"present.{layer}.key", f"present.{layer}.value"
