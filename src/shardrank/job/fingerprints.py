"""What makes two jobs the same job: the fields whose change in a resume is refused by name."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from shardrank import __version__
from shardrank.config import Config
from shardrank.engine.model import PreparedModel
from shardrank.engine.scoring import DEFAULT_MAX_BATCH_TOKENS
from shardrank.job.prompting import Prompting


def score_fields(config: Config, model: PreparedModel) -> dict[str, Any]:
    """Everything that a score depends on, by the name of its setting.

    Paths, cluster and threads are not in it: the same files score the same anywhere.
    """
    files = json.dumps(model.files, sort_keys=True).encode()
    prompt = Prompting.of(config, model)
    fields: dict[str, Any] = {
        "model files": hashlib.sha256(files).hexdigest(),
        "model precision": model.precision,
        "prompt.style": prompt.style,
        "prompt.instruction": prompt.instruction,
        "prompt.max_tokens": prompt.max_tokens,
        "prompt.long_documents": config.prompt.long_documents,
    }
    if prompt.windows is not None:
        fields["prompt.window_tokens"] = prompt.windows.num_tokens
        fields["prompt.window_stride"] = prompt.windows.stride
    if model.batch_dependent:
        fields["scoring.max_batch_tokens"] = (
            config.scoring.max_batch_tokens or DEFAULT_MAX_BATCH_TOKENS[config.device]
        )
        fields["scoring.reuse_prefix"] = config.scoring.reuse_prefix
        fields["shardrank version"] = __version__
    return fields


def output_fields(config: Config) -> dict[str, Any]:
    """Everything else that shapes the rows, by the name of its setting."""
    columns = {
        f"{section}.columns.{name}": column
        for section, names in (
            ("input", config.input.columns.model_dump()),
            ("output", config.output_columns.model_dump()),
        )
        for name, column in names.items()
    }
    cascade: dict[str, Any] = {}
    if config.cascade.is_set:
        cascade = {f"cascade.{name}": value for name, value in config.cascade.model_dump().items()}
    return {
        "input.layout": config.input.layout,
        "output.top_k": config.output.top_k,
        "output.min_score": config.output.min_score,
        "errors.on_bad_row": config.errors.on_bad_row,
        "errors.max_bytes": config.errors.max_bytes,
        "output.pair_hash": config.output.pair_hash,
        **cascade,
        **columns,
    }
