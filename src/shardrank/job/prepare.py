"""A prepared model from wherever its source is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from shardrank.config import PromptStyle
from shardrank.engine.model import PreparedModel
from shardrank.graph.prepare import Progress, prepare
from shardrank.graph.tuning import NO_TUNING, TuningRequest
from shardrank.store.source import local_source


def prepare_source(
    source: str,
    output: Path,
    *,
    revision: str | None = None,
    cache_folder: str | None = None,
    precision: str | None = None,
    block_size: int | None = None,
    layout: str | None = None,
    prompt_style: PromptStyle = "transformers",
    max_tokens: int | None = None,
    tuning: TuningRequest = NO_TUNING,
    progress: Progress | None = None,
) -> PreparedModel:
    """Fetch the source if it is not on this machine, and make a prepared model of it.

    source, revision, cache_folder: as in store.source.local_source, whose name and revision of the
        source go into reranker.json.
    The rest: as in graph.prepare.prepare.

    Raises ModelError, and InputError if a store cannot be read.
    """
    found = local_source(source, revision, cache_folder)
    model = prepare(
        found.path,
        output,
        precision=precision,
        block_size=block_size,
        layout=layout,
        prompt_style=prompt_style,
        max_tokens=max_tokens,
        tuning=tuning,
        progress=progress,
    )
    origin = {"name": found.name}
    if found.revision is not None:
        origin["revision"] = found.revision
    named = replace(model, source={**model.source, **origin})
    if named != model:
        named.save(output)
    return named
