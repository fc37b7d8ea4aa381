"""A checkpoint in fp32 on a sample of prompts, with every product open to be looked at."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from shardrank.engine.batching import left_pad, plan_batches
from shardrank.engine.machine import num_cores
from shardrank.engine.model import GRAPH_NAME
from shardrank.graph.answers import AnswerIds
from shardrank.graph.architecture import Architecture
from shardrank.graph.observing_linear import PREFIX, ObservingLinear
from shardrank.graph.packed import PackedLayout
from shardrank.graph.product_group import ProductGroup, product_groups
from shardrank.graph.qwen3 import Qwen3Graph
from shardrank.graph.spared import spared_groups
from shardrank.graph.switched_linear import SWITCHES, SwitchedLinear
from shardrank.graph.trial_writer import TrialWriter
from shardrank.graph.weights import Checkpoint
from shardrank.types import Float32Array, Float64Array, Int64Array, Prompts

# What `observe` holds in memory, and what it is worth the time to multiply.
_MAX_OBSERVED_BYTES = 256_000_000
_MAX_OBSERVED_TOKENS = 512
_BATCH_TOKENS = 2048


class Rehearsal:
    """Writes a graph into `folder`, which the caller deletes, and opens it.

    prompts: of the sample. groups: of all products, in the order of the graph; rounded: those
        that W8A8 rounds (spared.spared_groups).
    """

    def __init__(
        self,
        folder: Path,
        checkpoint: Checkpoint,
        architecture: Architecture,
        answers: AnswerIds,
        prompts: Prompts,
    ) -> None:
        folder.mkdir(parents=True)
        self.groups: Sequence[ProductGroup] = product_groups(architecture)
        spared = {group.name for group in spared_groups(self.groups)}
        self.rounded = [group for group in self.groups if group.name not in spared]
        self._prompts = prompts
        self._pad_id = answers.pad
        with TrialWriter(folder, external=True) as writer:
            switched = SwitchedLinear(writer, checkpoint)
            Qwen3Graph(
                writer=writer,
                checkpoint=checkpoint,
                architecture=architecture,
                layout=PackedLayout(writer, architecture),
                linear=ObservingLinear(writer, checkpoint, switched, self._stride()),
                dtype=np.dtype(np.float32),
                yes_id=answers.yes,
                no_id=answers.no,
                max_tokens=int(prompts.lengths.max()),
            ).build()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = num_cores()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # One copy of the weights, which the system may map: 8B in fp32 would be 32 GB.
        options.add_session_config_entry("session.disable_prepacking", "1")
        self._session = onnxruntime.InferenceSession(
            folder / GRAPH_NAME,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["ConstantFolding"],
        )

    @property
    def tokens_a_prompt(self) -> float:
        """Mean length of the sample's prompts."""
        return float(self._prompts.lengths.mean())

    def observe(self) -> dict[str, Float32Array]:
        """Some tokens' inputs of each rounded group, float32 [num_tokens, num_inputs], by its name.

        One token in so many of each prompt, its last among them, so that all fit into memory.
        """
        outputs = [f"{PREFIX}{group.products[0]}" for group in self.rounded]
        found: list[list[Float32Array]] = []
        for place in range(len(self._prompts)):
            ids = self._prompts[place].astype(np.int64)[None]
            found.append(self._session.run(outputs, self._feeds(ids, np.ones_like(ids), ())))
        return {
            group.name: np.concatenate(parts)
            for group, parts in zip(self.rounded, zip(*found, strict=True), strict=True)
        }

    def log_odds(self, quantized: Collection[str], num_prompts: int | None = None) -> Float64Array:
        """Log-odds with these groups rounded as W8A8 rounds, float64 [num_prompts].

        num_prompts: evenly taken from the sample; None for all.
        """
        total = len(self._prompts)
        wanted = min(num_prompts or total, total)
        places = np.arange(wanted) * total // wanted
        values = np.zeros(wanted, np.float64)
        for batch in plan_batches(self._prompts.lengths[places], _BATCH_TOKENS):
            ids, mask = left_pad(self._prompts, places[batch], self._pad_id)
            (logits,) = self._session.run(["logits"], self._feeds(ids, mask, quantized))
            values[batch] = logits[:, 0].astype(np.float64) - logits[:, 1]
        return values

    def _feeds(
        self, ids: Int64Array, mask: Int64Array, quantized: Collection[str]
    ) -> dict[str, NDArray[Any]]:
        switches = np.array([group.name in quantized for group in self.groups])
        return {"input_ids": ids, "attention_mask": mask, SWITCHES: switches}

    def _stride(self) -> int:
        token_bytes = 4 * sum(group.num_inputs for group in self.groups)
        wanted = min(_MAX_OBSERVED_TOKENS, max(1, _MAX_OBSERVED_BYTES // token_bytes))
        return -(-int(self._prompts.lengths.sum()) // wanted)
