"""What every worker of a job is told; small, frozen, and free of secrets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shardrank.config import CascadeConfig, InputColumns, OutputColumns
from shardrank.job.prompting import Prompting
from shardrank.store.filesystem import Storage
from shardrank.store.pair_index import PairIndex
from shardrank.store.plan import Fingerprints
from shardrank.types import Layout


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One job, seen from a worker.

    model_path: each node fetches its own copy where it is a URL.
    model_files: (name, sha256) of the files that the plan is bound to; any other are refused.
    prompting: resolved, the model's own where the job set none.
    pair_hash: whether it is written. reuse: where log-odds may be taken from.
    cascade: None where every pair is scored.
    job: what its log lines are known by. log_format: of them.
    """

    input: Storage
    output: Storage
    layout: Layout
    input_columns: InputColumns
    output_columns: OutputColumns
    top_k: int | None
    min_score: float | None
    max_bytes: int
    fail_on_bad_row: bool
    fingerprints: Fingerprints
    model_path: str
    model_files: tuple[tuple[str, str], ...]
    cache_folder: str | None
    prompting: Prompting
    device: Literal["cpu", "cuda"]
    threads: int
    max_batch_tokens: int | None
    reuse_prefix: bool
    pair_hash: bool
    reuse: PairIndex | None
    cascade: CascadeConfig | None
    job: str = ""
    log_format: Literal["text", "json"] = "text"
