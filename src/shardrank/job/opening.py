"""A job before it runs: the model read, the plan made or found, and everything checked in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shardrank.config import Config
from shardrank.engine.model import PreparedModel
from shardrank.engine.prompt import PromptBuilder
from shardrank.engine.tokenizer import Tokenizer
from shardrank.errors import ConfigError
from shardrank.job.fingerprints import output_fields, score_fields
from shardrank.job.holding import ray_job_id
from shardrank.job.model_folder import local_folder, model_location
from shardrank.job.prompting import Prompting
from shardrank.job.spec import JobSpec
from shardrank.store.columns import check_columns, check_split_queries
from shardrank.store.filesystem import Storage
from shardrank.store.footers import Footer, read_footers
from shardrank.store.plan import (
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
    """A plan with all that its workers need to be told."""

    config: Config
    model: PreparedModel
    plan: Plan
    input: Storage
    output: Storage
    warnings: tuple[str, ...]

    def spec(self, threads: int) -> JobSpec:
        """What a worker is told."""
        return job_spec(
            self.config, self.model, self.input, self.output, self.plan.fingerprints, threads
        )


def job_spec(
    config: Config,
    model: PreparedModel,
    source: Storage,
    output: Storage,
    fingerprints: Fingerprints,
    threads: int,
) -> JobSpec:
    """What a worker of this job is told. threads: that an actor computes with."""
    return JobSpec(
        input=source,
        output=output,
        layout=config.input.layout,
        input_columns=config.input.columns,
        output_columns=config.output.columns,
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
    if stored is not None:
        require_same_input(stored, shards)
        return Job(config, model, stored, source, output, _warnings(config, model, output))
    prompt_builder(config, model, folder)
    _, units = plan_units(config, source, shards)
    proposed = new_plan(
        scores, rows, config.input.layout, config.input.columns, config.output.columns, units
    )
    plan = open_plan(output, proposed)
    return Job(config, model, plan, source, output, _warnings(config, model, output))


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
    check_columns(footers, layout, columns, config.output.columns)
    check_split_queries(footers, config.output.top_k, config.output.min_score)
    return footers, cut_units(footers, config.unit_pairs, layout)


def _warnings(config: Config, model: PreparedModel, output: Storage) -> tuple[str, ...]:
    found = []
    style = config.prompt.style
    if style not in (None, model.prompt_style):
        found.append(f"prompt style {style} instead of the model's {model.prompt_style}")
    if model.batch_dependent:
        found.append("with this model a score depends a little on the batch that it is scored in")
    if not output.exclusive:
        found.append(
            f"{output.display()} cannot create files exclusively: do not run two jobs on it at once"
        )
    return tuple(found)
