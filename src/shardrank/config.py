"""One strict tree of settings, read once at the door: TOML file, then `--set`, then frozen.

A key that is not in the tree, or a value of another kind, is an error that names it. Nothing is
read from environment variables; credentials belong to the storage libraries.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, model_validator

from shardrank.config_output import CascadeConfig as CascadeConfig
from shardrank.config_output import OutputColumns as OutputColumns
from shardrank.config_output import OutputConfig as OutputConfig
from shardrank.config_values import (
    HOLDS_CREDENTIALS,
    Amounts,
    Location,
    Name,
    Text,
    keys_of,
    read_toml,
)
from shardrank.config_values import Section as _Section
from shardrank.errors import ConfigError
from shardrank.types import Layout

PromptStyle = Literal["transformers", "vllm", "transformersjs"]


class InputColumns(_Section):
    """Where the input keeps what shardrank needs."""

    query_id: Name = "query_id"
    query: Name = "query"
    candidates: Name = "candidates"
    doc_id: Name = "doc_id"
    text: Name = "text"
    instruction: Name = "instruction"


class InputConfig(_Section):
    """The shards: a file, a folder, a glob, or any of these on object storage."""

    path: Location
    layout: Layout = "nested"
    columns: InputColumns = InputColumns()


class ModelConfig(_Section):
    """A prepared model: a folder, a URL, or `demo` for the built-in one."""

    path: Location
    cache_folder: Location | None = None


class PromptConfig(_Section):
    """How a pair becomes a prompt; None keeps what the model was prepared with."""

    style: PromptStyle | None = None
    instruction: Text | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    long_documents: Literal["truncate", "windows"] = "truncate"
    window_tokens: Annotated[int, Field(ge=1)] = 1024
    window_stride: Annotated[int, Field(ge=1)] = 512

    @model_validator(mode="after")
    def _leave_no_gap(self) -> PromptConfig:
        if self.window_stride > self.window_tokens:
            raise ValueError(
                f"window_stride {self.window_stride} is more than window_tokens "
                f"{self.window_tokens}, which would leave gaps between the windows"
            )
        return self


class ScoringConfig(_Section):
    """How prompts become logits. None of it changes a score of a batch-independent model.

    reuse: the output of an earlier job, whose log-odds are taken where pair and fingerprint are
    the same.
    """

    device: Literal["cpu", "cuda"] | None = None
    max_batch_tokens: Annotated[int, Field(ge=1)] | None = None
    reuse_prefix: bool = True
    threads: Annotated[int, Field(ge=1)] | None = None
    reuse: Location | None = None


class ErrorsConfig(_Section):
    """What a bad row, shard or unit may cost.

    max_rejected_fraction: of all pairs and rows; max_failed_shards: a number of shards;
    max_bytes: of one text in UTF-8.
    """

    on_bad_row: Literal["reject", "fail"] = "reject"
    max_rejected_fraction: Annotated[float, Field(ge=0.0, le=1.0)] = 0.01
    max_failed_shards: Annotated[int, Field(ge=0)] = 0
    max_attempts: Annotated[int, Field(ge=1)] = 3
    max_bytes: Annotated[int, Field(ge=1)] = 1_000_000


class UnitsConfig(_Section):
    """About how many pairs make a unit; None chooses by device."""

    pairs: Annotated[int, Field(ge=1)] | None = None


class ClusterConfig(_Section):
    """The Ray cluster: None for the one that this runs in as a Ray job, else this machine alone.

    actor_resources, task_resources: custom resources that scorers, and the tasks that read and
    write, ask for beside CPUs and GPUs, so that each keeps to its own kind of node.
    """

    address: str | None = None
    min_actors: Annotated[int, Field(ge=1)] = 1
    max_actors: Annotated[int, Field(ge=1)] | None = None
    cpus_per_actor: Annotated[float, Field(gt=0.0)] | None = None
    gpus_per_actor: Annotated[float, Field(ge=0.0)] = 0.0
    actor_resources: Amounts = Field(default_factory=dict)
    task_resources: Amounts = Field(default_factory=dict)
    no_progress_seconds: Annotated[int, Field(ge=1)] = 1800
    drain_seconds: Annotated[float, Field(ge=0.0)] = 20.0

    @model_validator(mode="after")
    def _bounds_in_order(self) -> ClusterConfig:
        if self.max_actors is not None and self.max_actors < self.min_actors:
            raise ValueError(
                f"max_actors = {self.max_actors} is less than min_actors = {self.min_actors}"
            )
        return self


class LeaseConfig(_Section):
    """How long the holder of an output may be silent before another job takes over."""

    seconds: Annotated[float, Field(ge=0.5)] = 30.0


class LoggingConfig(_Section):
    """What a job says: lines for people, or JSON lines with job, unit and worker."""

    format: Literal["text", "json"] = "text"


class Config(_Section):
    """Everything that a job is told."""

    input: InputConfig
    output: OutputConfig
    model: ModelConfig
    cascade: CascadeConfig = CascadeConfig()
    prompt: PromptConfig = PromptConfig()
    scoring: ScoringConfig = ScoringConfig()
    errors: ErrorsConfig = ErrorsConfig()
    units: UnitsConfig = UnitsConfig()
    cluster: ClusterConfig = ClusterConfig()
    lease: LeaseConfig = LeaseConfig()
    logging: LoggingConfig = LoggingConfig()

    @model_validator(mode="after")
    def _layouts_agree(self) -> Config:
        if self.output.layout not in (None, self.input.layout):
            raise ValueError(
                f"output.layout = {self.output.layout!r} differs from "
                f"input.layout = {self.input.layout!r}; leave output.layout out"
            )
        if self.cascade.is_set and self.output.min_score is not None:
            raise ValueError(
                "output.min_score judges a score that a cascade does not give to every candidate; "
                "leave it out, or cut with output.top_k"
            )
        return self

    @property
    def output_columns(self) -> OutputColumns:
        """What our columns are called: under the cascade's prefix where there is a cascade."""
        columns = self.output.columns
        return columns.under(self.cascade.prefix) if self.cascade.is_set else columns

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """The device of the scorers: as asked, else cuda where actors are given GPUs."""
        if self.scoring.device is not None:
            return self.scoring.device
        return "cuda" if self.cluster.gpus_per_actor > 0 else "cpu"

    @property
    def unit_pairs(self) -> int:
        """About how many pairs make a unit."""
        return self.units.pairs or (32_768 if self.device == "cuda" else 1_024)


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file (or nothing, where path is None) and apply `section.key=value` overrides.

    Raises ConfigError, naming the key, for anything that the tree does not know or accept.
    """
    tree = read_toml(Path(path)) if path is not None else {}
    for override in overrides:
        _apply(tree, override)
    return parse_config(tree)


def parse_config(tree: Mapping[str, Any]) -> Config:
    """Validate a nested mapping. Raises ConfigError with one line per fault."""
    try:
        return Config.model_validate(dict(tree))
    except ValidationError as error:
        lines = [_explain(fault) for fault in error.errors()]
        raise ConfigError("; ".join(dict.fromkeys(lines))) from None


def known_keys() -> list[str]:
    """All keys as `section.key`, in the order of the tree."""
    return keys_of(Config, "")


def _apply(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    key = key.strip()
    if not separator:
        raise ConfigError(f"--set {override!r} has no '='; write it as section.key=value")
    annotation = _annotation(key)
    *sections, last = key.split(".")
    for section in sections:
        value = tree.setdefault(section, {})
        if not isinstance(value, dict):
            raise ConfigError(f"{section!r} is a section, but the configuration gives it a value")
        tree = value
    tree[last] = _typed(key, text, annotation)


def _annotation(key: str) -> Any:
    model: Any = Config
    *sections, last = key.split(".")
    for section in sections:
        field = getattr(model, "model_fields", {}).get(section)
        model = field.annotation if field else None
    fields = getattr(model, "model_fields", {})
    if last not in fields or hasattr(fields[last].annotation, "model_fields"):
        raise ConfigError(_unknown(key))
    field = fields[last]
    return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation


def _typed(key: str, text: str, annotation: Any) -> Any:
    """A value from the command line, read as the type of its field."""
    accepts_none = type(None) in get_args(annotation)
    if accepts_none and text == "none":
        return None
    try:
        return TypeAdapter(annotation).validate_strings(text)
    except ValidationError as error:
        raise ConfigError(_blame(key, text, _message(error.errors()[0]))) from None


def _explain(fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return _unknown(key)
    if fault["type"] == "missing":
        needed = f"{key}.path" if key in Config.model_fields else key
        return f"{needed} is missing: give it in the configuration or with --set {needed}=..."
    if not key:
        return _message(fault)
    return _blame(key, fault["input"], _message(fault))


def _blame(key: str, value: Any, message: str) -> str:
    """A value is repeated, unless it holds the credentials that it is refused for."""
    if message == HOLDS_CREDENTIALS or isinstance(value, BaseModel | dict):
        return f"{key}: {message}"
    return f"{key} = {value!r}: {message}"


def _unknown(key: str) -> str:
    near = difflib.get_close_matches(key, known_keys(), n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown configuration key {key}{hint}"


def _message(fault: Any) -> str:
    message = str(fault["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
