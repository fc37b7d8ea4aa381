"""The mean error of rounded logits on a sample of text, taken back by a constant.

What every prompt has in common, most of all its template, moves all logits the same way when it is
rounded. That changes no ranking, but every score (docs/decisions/011-spared.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from shardrank.config import PromptStyle
from shardrank.engine.batching import left_pad, plan_batches
from shardrank.engine.layouts import KEEPS_PAST
from shardrank.engine.machine import num_cores
from shardrank.engine.model import GRAPH_NAME
from shardrank.engine.operators import find_library
from shardrank.engine.prompt import DEFAULT_INSTRUCTION, PromptBuilder
from shardrank.engine.tokenizer import Tokenizer
from shardrank.errors import ConfigError, InputError, ModelError
from shardrank.graph.answers import AnswerIds
from shardrank.graph.architecture import Architecture
from shardrank.graph.exact_decoder import ExactDecoder
from shardrank.graph.text_sample import TextSample
from shardrank.graph.weights import Checkpoint
from shardrank.types import Float32Array, Prompts

OFFSET = "logits.offset"
_LOGITS = "logits"
_BATCH_TOKENS = 2048
# Enough for a mean, and seconds of work for 0.6B; fewer pairs where a tokenizer needs many tokens.
_NUM_PAIRS = 16
_MAX_SAMPLE_TOKENS = 1600
_MAX_TOKENS = 512
# The last bits of a sum are the machine's; a model should be the same on all.
_STEP = 2.0**-10


@dataclass(frozen=True, slots=True)
class OffsetFinder:
    """Scores a sample by a prepared graph and by the checkpoint it was made of.

    prompt_style, max_tokens: of the model.
    """

    checkpoint: Checkpoint
    architecture: Architecture
    answers: AnswerIds
    prompt_style: PromptStyle
    max_tokens: int

    def find(self, folder: Path, layout: str, sample: TextSample) -> Float32Array | None:
        """What is to be added to the graph's logits, float32 [2], a multiple of 1/1024.

        folder, layout: of the graph: padded, prefix or fused-prefix. None if the model takes so few
        tokens that nothing of the sample fits. Raises ModelError if onnxruntime cannot run it.
        """
        try:
            prompts = self._prompts(sample)
        except (ConfigError, InputError):
            return None
        answer_ids = (self.answers.yes, self.answers.no)
        library = find_library(layout)
        try:
            found = self._rounded_logits(folder / GRAPH_NAME, library, prompts)
        except Exception as error:  # onnxruntime's errors have no common base
            raise ModelError(
                f"the graph was written and onnxruntime {onnxruntime.__version__} cannot run it "
                f"here ({' '.join(str(error).split())[:300]}); prepare the model on another "
                f"machine, or with another --precision."
            ) from error
        exact = ExactDecoder(self.checkpoint, self.architecture).logits(prompts, answer_ids)
        missing = (exact.astype(np.float64) - found).mean(axis=0)
        return np.asarray(np.rint(missing / _STEP) * _STEP, np.float32)

    def _prompts(self, sample: TextSample) -> Prompts:
        builder = self._builder()
        few = sample.thinned(_NUM_PAIRS)
        prompts = few.prompts(builder)
        share = _MAX_SAMPLE_TOKENS / len(prompts.token_ids)
        if share >= 1:
            return prompts
        return few.thinned(max(1, int(share * len(prompts)))).prompts(builder)

    def _builder(self) -> PromptBuilder:
        tokenizer = Tokenizer.load(self.checkpoint.folder)
        max_tokens = min(self.max_tokens, _MAX_TOKENS)
        return PromptBuilder(tokenizer, self.prompt_style, DEFAULT_INSTRUCTION, max_tokens)

    def _rounded_logits(self, path: Path, library: Path | None, prompts: Prompts) -> Float32Array:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = num_cores()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # One copy of the weights, which the system may map.
        options.add_session_config_entry("session.disable_prepacking", "1")
        if library is not None:
            options.register_custom_ops_library(str(library))
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        inputs = session.get_inputs()
        pasts = [node for node in inputs if node.name.startswith("past_key_values.")]
        has_choice = any(node.name == KEEPS_PAST for node in inputs)
        logits = np.empty((len(prompts), 2), np.float32)
        for batch in plan_batches(prompts.lengths, _BATCH_TOKENS):
            ids, mask = left_pad(prompts, batch, self.answers.pad)
            feeds: dict[str, Any] = {"input_ids": ids, "attention_mask": mask} | {
                node.name: np.empty((len(ids), node.shape[1], 0, node.shape[3]), np.float32)
                for node in pasts
            }
            if has_choice:
                feeds[KEEPS_PAST] = np.zeros(1, np.int64)
            logits[batch] = session.run([_LOGITS], feeds)[0]
        return logits


def add_offset(folder: Path, offset: Float32Array) -> None:
    """Add it to the logits of the graph in this folder."""
    path = folder / GRAPH_NAME
    model = onnx.load(path, load_external_data=False)
    (last,) = (node for node in model.graph.node if _LOGITS in node.output)
    last.name = last.output[0] = f"{_LOGITS}.plain"
    made = helper.make_node("Add", [last.output[0], OFFSET], [_LOGITS], name=_LOGITS)
    model.graph.node.append(made)
    model.graph.initializer.append(numpy_helper.from_array(offset, OFFSET))
    path.write_bytes(model.SerializeToString(deterministic=True))
