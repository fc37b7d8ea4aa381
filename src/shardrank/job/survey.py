"""What can be seen of a job without doing it: model, footers, a sample, and an actor's speed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import ray

from shardrank.config import Config
from shardrank.engine.machine import num_cores
from shardrank.engine.model import PreparedModel
from shardrank.engine.tokenizer import Tokenizer
from shardrank.job.cluster import LOCAL, Shape, connected, shape_of
from shardrank.job.fingerprints import score_fields
from shardrank.job.known_pairs import KnownPairs
from shardrank.job.measure import Measured, measure
from shardrank.job.model_folder import local_folder
from shardrank.job.opening import job_spec, plan_units, prompt_builder, require_finished
from shardrank.job.prompting import Prompting
from shardrank.job.reuse import find_earlier
from shardrank.job.sample import Sample, draw
from shardrank.job.spec import JobSpec
from shardrank.store.filesystem import Storage
from shardrank.store.footers import Footer
from shardrank.store.plan import Fingerprints
from shardrank.store.units import list_shards
from shardrank.types import Unit

_NO_LIMIT = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Survey:
    """What was seen.

    model_bytes: of its files. shape: of the actors that the job would have now.
    measured: None where nothing was scored. is_own: the job would start a cluster of its own.
    reused_from: the output whose scores would be taken, or None. is_known: whether the sample says
        which of its pairs have one.
    """

    model: PreparedModel
    model_bytes: int
    footers: Sequence[Footer]
    units: Sequence[Unit]
    sample: Sample
    shape: Shape
    measured: Measured | None
    exclusive: bool
    is_own: bool
    reused_from: str | None
    is_known: bool


def survey(config: Config, measure_seconds: float | None) -> Survey:
    """Look at a job. measure_seconds: of scoring; None for none, and no cluster is asked then.

    Raises what the job itself would raise before it scores.
    """
    folder = local_folder(config.model.path, config.model.cache_folder)
    model = PreparedModel.load(folder)
    builder = prompt_builder(config, model, folder)
    output = Storage(config.output.path, "output")
    source, shards = list_shards(config.input.path, output)
    require_finished(source)
    earlier, _ = find_earlier(config, score_fields(config, model), output)
    footers, units = plan_units(config, source, shards)
    prompting = Prompting.of(config, model)
    uncut = replace(prompting, max_tokens=_NO_LIMIT).builder(Tokenizer.load(folder))
    known = None if earlier is None else KnownPairs.of(earlier, prompting.instruction)
    sample = draw(config, source, units, builder, uncut, known)
    address = config.cluster.address or os.environ.get("RAY_ADDRESS")
    is_own = address is None or address == LOCAL
    spec = job_spec(config, model, source, output, Fingerprints("", ""), 1)
    shape, measured = _measured(
        config, spec, sample, len(units), None if is_own else address, measure_seconds
    )
    return Survey(
        model=model,
        model_bytes=sum((folder / name).stat().st_size for name in model.files),
        footers=footers,
        units=units,
        sample=sample,
        shape=shape,
        measured=measured,
        exclusive=output.exclusive,
        is_own=is_own,
        reused_from=None if earlier is None else earlier.display(),
        is_known=known is not None,
    )


def _measured(
    config: Config,
    spec: JobSpec,
    sample: Sample,
    num_units: int,
    address: str | None,
    seconds: float | None,
) -> tuple[Shape, Measured | None]:
    this_machine = {"Resources": {"CPU": float(num_cores())}}
    if seconds is None:
        return shape_of(config, [this_machine], num_units), None
    with connected(address) if address else nullcontext():
        shape = shape_of(config, ray.nodes() if address else [this_machine], num_units)
        if not len(sample.lengths):
            return shape, None
        spec = replace(spec, threads=shape.threads)
        return shape, measure(spec, sample.parts, seconds, shape, on_cluster=address is not None)
