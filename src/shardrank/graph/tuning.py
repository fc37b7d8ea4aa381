"""What W8A8 can learn from a sample of text: scales that smooth, and products that stay finer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shardrank.config import PromptStyle
from shardrank.engine.prompt import DEFAULT_INSTRUCTION, PromptBuilder
from shardrank.engine.tokenizer import Tokenizer
from shardrank.errors import ModelError
from shardrank.graph.answers import AnswerIds
from shardrank.graph.architecture import Architecture
from shardrank.graph.product_group import product_groups
from shardrank.graph.qwen3 import tensor_shapes
from shardrank.graph.rehearsal import Rehearsal
from shardrank.graph.sensitivity import (
    Sensitivity,
    choose_kept,
    measure_sensitivities,
    relative_error,
    render_sensitivities,
)
from shardrank.graph.smoothing import SmoothedCheckpoint, Smoothing, choose_smoothing, fold_scales
from shardrank.graph.text_sample import TextSample
from shardrank.graph.weights import Checkpoint
from shardrank.types import Prompts

# The rehearsal's prompts; what a channel does shows in the first few hundred tokens.
_MAX_TOKENS = 512


@dataclass(frozen=True, slots=True)
class TuningRequest:
    """What is asked of `prepare` beyond rounding.

    smooth: move scales from activations into weights.
    num_kept: groups of products that stay in fp32, the most sensitive ones.
    max_error: instead: keep as many as it takes, the best for their work first, so that the
        log-odds of the sample err by this at most: rms over their standard deviation.
    sample: a file of pairs (text_sample.TextSample); None for the built-in one.
    """

    smooth: bool = False
    num_kept: int = 0
    max_error: float | None = None
    sample: Path | None = None

    def __bool__(self) -> bool:
        return self.smooth or self.keeps

    @property
    def keeps(self) -> bool:
        """True if some products may stay in fp32."""
        return self.num_kept > 0 or self.max_error is not None

    def require(self, precision: str) -> None:
        """Raise ModelError if the precision leaves nothing to tune, or the wishes make no sense."""
        if self.num_kept < 0:
            raise ModelError(
                f"{self.num_kept} products cannot be kept; give a number of 0 or more."
            )
        if self.max_error is not None and (self.num_kept or not self.max_error > 0):
            raise ModelError(
                f"an error of at most {self.max_error} was asked for, and {self.num_kept} products "
                f"to keep; give an error above 0, or a number of products, not both."
            )
        if self and precision != "w8a8":
            raise ModelError(
                f"smoothing and keeping products are for the precision 'w8a8', and {precision!r} "
                f"was asked for; leave them out, or choose --precision w8a8."
            )
        if self.sample is not None and not self:
            raise ModelError(
                f"the sample {self.sample.name} was given and nothing that learns from it; add "
                f"--smooth, --keep-sensitive or --max-error."
            )


NO_TUNING = TuningRequest()


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was learnt: the checkpoint to build from, and the products to keep.

    kept: names of products, without ".weight". record: for reranker.json.
    """

    checkpoint: Checkpoint
    kept: frozenset[str] = frozenset()
    record: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tuner:
    """Looks at a checkpoint while it works on a sample.

    folder: for the rehearsal's graph, as large as the checkpoint; deleted after use.
    """

    checkpoint: Checkpoint
    architecture: Architecture
    answers: AnswerIds
    prompt_style: PromptStyle
    max_tokens: int
    folder: Path
    tell: Callable[[str], None]

    def tune(self, request: TuningRequest) -> Tuning:
        """Smooth first, then find what is still sensitive.

        Raises ModelError for a checkpoint that cannot be built, InputError for a broken sample.
        """
        if not request:
            return Tuning(self.checkpoint)
        self.checkpoint.require(tensor_shapes(self.architecture))
        sample = TextSample.load(request.sample)
        prompts = sample.prompts(
            PromptBuilder(
                Tokenizer.load(self.checkpoint.folder),
                self.prompt_style,
                DEFAULT_INSTRUCTION,
                min(self.max_tokens, _MAX_TOKENS),
            )
        )
        record: dict[str, Any] = {
            "sample": {"name": sample.name, "pairs": len(prompts), "sha256": sample.sha256}
        }
        checkpoint = self.checkpoint
        if request.smooth:
            smoothings = self._smoothings(prompts)
            record["smoothing"] = describe_smoothings(smoothings)
            checkpoint = smooth_checkpoint(checkpoint, self.architecture, smoothings)
        if not request.keeps:
            return Tuning(checkpoint, record=record)
        found, kept_groups, errors = self._sensitivities(checkpoint, prompts, request)
        self.tell(render_sensitivities(found, kept_groups))
        record |= {
            "kept": {"precision": "fp32", "groups": kept_groups, **errors},
            "sensitivity": [entry.as_dict() for entry in found],
        }
        kept = {
            product
            for group in product_groups(self.architecture)
            if group.name in kept_groups
            for product in group.products
        }
        return Tuning(checkpoint, frozenset(kept), record)

    def _smoothings(self, prompts: Prompts) -> dict[str, Smoothing]:
        self.tell(f"looking at what {len(prompts)} prompts send through the products")
        try:
            rehearsal = self._rehearse(self.checkpoint, prompts)
            observed = rehearsal.observe()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.tell("choosing scales")
        return {
            group.name: choose_smoothing(
                group,
                observed[group.name],
                [self.checkpoint.read(f"{name}.weight") for name in group.products],
            )
            for group in rehearsal.rounded
        }

    def _sensitivities(
        self, checkpoint: Checkpoint, prompts: Prompts, request: TuningRequest
    ) -> tuple[list[Sensitivity], list[str], dict[str, float]]:
        """The table, the groups to keep, and the error of all groups before and after."""
        self.tell("rounding one product after the other")
        try:
            rehearsal = self._rehearse(checkpoint, prompts)
            found = measure_sensitivities(rehearsal)
            exact = rehearsal.log_odds(())
            names = {group.name for group in rehearsal.rounded}

            def error_without(spared: Collection[str]) -> float:
                return relative_error(rehearsal.log_odds(names.difference(spared)), exact)

            if request.max_error is None:
                kept = [entry.name for entry in found[: request.num_kept]]
            else:
                kept = choose_kept(found, error_without, request.max_error)
            errors = {
                "error_before": float(f"{error_without(()):.4g}"),
                "error_after": float(f"{error_without(kept):.4g}"),
            }
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
        return found, kept, errors

    def _rehearse(self, checkpoint: Checkpoint, prompts: Prompts) -> Rehearsal:
        return Rehearsal(self.folder, checkpoint, self.architecture, self.answers, prompts)


def smooth_checkpoint(
    checkpoint: Checkpoint, architecture: Architecture, smoothings: Mapping[str, Smoothing]
) -> SmoothedCheckpoint:
    """The same checkpoint with the scales of these groups folded in."""
    scales = {
        name: smoothing.scales
        for name, smoothing in smoothings.items()
        if smoothing.strength is not None
    }
    return SmoothedCheckpoint(checkpoint.folder, *fold_scales(product_groups(architecture), scales))


def describe_smoothings(smoothings: Mapping[str, Smoothing]) -> dict[str, Any]:
    """For reranker.json: the groups that were smoothed, with strength and error of the products."""
    return {
        name: {
            "strength": smoothing.strength,
            "error_before": float(f"{smoothing.error_before:.4g}"),
            "error_after": float(f"{smoothing.error_after:.4g}"),
        }
        for name, smoothing in smoothings.items()
        if smoothing.strength is not None
    }
