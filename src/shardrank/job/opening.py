"""A job before it runs: the model read, the plan made or found, and everything checked in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shardrank.config import Config
from shardrank.engine.model import PreparedModel
from shardrank.engine.prompt import PromptBuilder
from shardrank.engine.tokenizer import Tokenizer
from shardrank.errors import ConfigError, InputError
from shardrank.job.fingerprints import output_fields, score_fields
from shardrank.job.holding import ray_job_id
from shardrank.job.model_folder import local_folder, model_location
from shardrank.job.prompting import Prompting
from shardrank.job.reuse import find_earlier
from shardrank.job.spec import JobSpec
from shardrank.store.cascade import check_cascade
from shardrank.store.columns import check_columns, check_split_queries
from shardrank.store.commits import SUCCESS_NAME
from shardrank.store.filesystem import Storage
from shardrank.store.footers import Footer, read_footers
from shardrank.store.pair_index import PairIndex
from shardrank.store.plan import (
    PLAN_NAME,
    Fingerprints,
    Plan,
    load_plan,
    new_plan,
    open_plan,
    require_same_input,
    require_same_job,
)
from shardrank.store.units import cut_units, list_shards
from shardrank.types import Shard, Unit


@dataclass(frozen=True, slots=True)
class Job:
    """A plan with all that its workers need to be told.

    earlier: the output whose scores may be taken. index: of it, once there is one.
    is_new: whether this execution is the first.
    """

    config: Config
    model: PreparedModel
    plan: Plan
    input: Storage
    output: Storage
    warnings: tuple[str, ...]
    earlier: Storage | None = None
    index: PairIndex | None = None
    is_new: bool = False

    def spec(self, threads: int) -> JobSpec:
        """What a worker is told."""
        return job_spec(
            self.config,
            self.model,
            self.input,
            self.output,
            self.plan.fingerprints,
            threads,
            self.index,
        )


def job_spec(
    config: Config,
    model: PreparedModel,
    source: Storage,
    output: Storage,
    fingerprints: Fingerprints,
    threads: int,
    index: PairIndex | None = None,
) -> JobSpec:
    """What a worker of this job is told.

    threads: that an actor computes with. index: of the earlier output whose scores may be taken.
    """
    return JobSpec(
        input=source,
        output=output,
        layout=config.input.layout,
        input_columns=config.input.columns,
        output_columns=config.output_columns,
        top_k=config.output.top_k,
        min_score=config.output.min_score,
        max_bytes=config.errors.max_bytes,
        fail_on_bad_row=config.errors.on_bad_row == "fail",
        fingerprints=fingerprints,
        model_path=model_location(config.model.path),
        model_files=tuple(sorted(model.files.items())),
        cache_folder=config.model.cache_folder,
        prompting=Prompting.of(config, model),
        device=config.device,
        threads=threads,
        max_batch_tokens=config.scoring.max_batch_tokens,
        reuse_prefix=config.scoring.reuse_prefix,
        pair_hash=config.output.pair_hash,
        reuse=index,
        cascade=config.cascade if config.cascade.is_set else None,
        job=job_name(fingerprints),
        log_format=config.logging.format,
    )


def job_name(fingerprints: Fingerprints) -> str:
    """What an execution is called in logs: its Ray job's id, else a part of its fingerprint."""
    return ray_job_id() or fingerprints.output[:12]


def open_job(config: Config) -> Job:
    """Read the model, list the input, and write the plan or check the one that is there.

    What the output belongs to is asked first: a resume with another model must hear exactly that,
    not that its files look odd. Nothing is written before everything else has been checked.
    """
    folder = local_folder(config.model.path, config.model.cache_folder)
    model = PreparedModel.load(folder)
    scores, rows = score_fields(config, model), output_fields(config)
    output = Storage(config.output.path, "output")
    stored = load_plan(output)
    if stored is not None:
        require_same_job(stored, scores, rows)
    source, shards = list_shards(config.input.path, output)
    require_finished(source)
    earlier: Storage | None = None
    unused: tuple[str, ...] = ()
    if not output.exists(SUCCESS_NAME):
        earlier, unused = find_earlier(config, scores, output)
    if stored is not None:
        require_same_input(stored, shards)
        warnings = (*_warnings(config, model, output, earlier), *unused)
        return Job(config, model, stored, source, output, warnings, earlier)
    if earlier is None:
        # Else the earlier job, of the same score fingerprint, has been through it.
        prompt_builder(config, model, folder)
    _, units = plan_units(config, source, shards)
    proposed = new_plan(
        scores, rows, config.input.layout, config.input.columns, config.output_columns, units
    )
    plan = open_plan(output, proposed)
    warnings = (*_warnings(config, model, output, earlier), *unused)
    return Job(config, model, plan, source, output, warnings, earlier, is_new=True)


def prompt_builder(config: Config, model: PreparedModel, folder: Path) -> PromptBuilder:
    """The job's prompts. Raises ConfigError if the settings leave no room for a document."""
    prompt = Prompting.of(config, model)
    if prompt.max_tokens > model.max_tokens:
        raise ConfigError(
            f"prompt.max_tokens = {prompt.max_tokens} is more than the model takes "
            f"({model.max_tokens}); lower it, or prepare the model with --max-tokens"
        )
    tokenizer = Tokenizer.load(folder)
    return prompt.builder(tokenizer)


def plan_units(
    config: Config, source: Storage, shards: Sequence[Shard]
) -> tuple[list[Footer], list[Unit]]:
    """Read the footers, check what they say against the settings, and cut the units.

    Raises InputError and ConfigError as the checks do.
    """
    layout, columns = config.input.layout, config.input.columns
    footers = read_footers(source, shards, layout, columns)
    check_columns(
        footers, layout, columns, config.output_columns, pair_hash=config.output.pair_hash
    )
    if config.cascade.is_set:
        check_cascade(footers, layout, columns, config.cascade)
    check_split_queries(footers, config.output.top_k, config.output.min_score)
    return footers, cut_units(footers, config.unit_pairs, layout)


def require_finished(source: Storage) -> None:
    """Raise InputError if the input is the output of a job that is not finished."""
    if source.exists(PLAN_NAME) and not source.exists(SUCCESS_NAME):
        raise InputError(
            f"the input {source.display()} is the output of a job that is not finished (it has no "
            f"{SUCCESS_NAME}); finish that job first, since what it still writes would be missed"
        )


def _warnings(
    config: Config, model: PreparedModel, output: Storage, earlier: Storage | None
) -> tuple[str, ...]:
    found = []
    style = config.prompt.style
    if style not in (None, model.prompt_style):
        found.append(f"prompt style {style} instead of the model's {model.prompt_style}")
    if model.batch_dependent:
        found.append("with this model a score depends a little on the batch that it is scored in")
        if earlier is not None:
            found.append("scores that are reused are those of the earlier job's batches")
    if not output.exclusive:
        found.append(
            f"{output.display()} cannot create files exclusively: do not run two jobs on it at once"
        )
    return tuple(found)
