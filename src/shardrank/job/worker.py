"""The three stages that a unit passes: read and tokenize, score, rank and write.

Each takes and gives a table of one row (a Parcel, at the end a receipt). Whatever goes wrong with a
unit becomes a fault in its parcel: an exception would make Ray Data drop the block or end the job.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, lru_cache

import numpy as np
import pyarrow as pa

from shardrank.engine.model import TOKENIZER_NAME, PreparedModel, file_sha256
from shardrank.engine.onnx_session import describe_session
from shardrank.engine.paged_session import PagedSession
from shardrank.engine.prompt import PromptBuilder
from shardrank.engine.ranking import log_odds
from shardrank.engine.reranker import Reranker
from shardrank.engine.tokenizer import Tokenizer
from shardrank.errors import BadRowError, ModelError, ShardError, ShardrankError
from shardrank.job.drain import STOPPED, Brake, RemoteBrake
from shardrank.job.logs import worker_name
from shardrank.job.metered import MeteredSession
from shardrank.job.model_folder import local_folder, verified_folder
from shardrank.job.notes import ScorerNotes, note_read, note_written
from shardrank.job.pairs import hashes_of, pairs_to_score, tokenize
from shardrank.job.parcel import Fault, Order, Parcel
from shardrank.job.spec import JobSpec
from shardrank.store.attempts import WORKER_DIED, begin_attempt
from shardrank.store.cascade import choose
from shardrank.store.output import build_output
from shardrank.store.pair_hash import NUM_BYTES
from shardrank.store.pair_index import Reused
from shardrank.store.reader import read_unit
from shardrank.store.unit_table import UnitTable
from shardrank.store.writer import Attempt, commit_tombstone, commit_unit
from shardrank.types import Prompts, Receipt, Rejection, Unit

_STOPPED = Fault(STOPPED, "the job was told to end before this unit began")
_UNKNOWN = Fault("unknown", "a pair of this unit has no earlier score")
_DEADLY = "the process that scores this row dies; look at its length and its text"


def read(table: pa.Table, spec: JobSpec, brake: Brake | RemoteBrake) -> pa.Table:
    """An order in, the unit's rows and prompts out."""
    order = Order.from_table(table)
    parcel = Parcel(order.unit, (order.first_attempt, order.last_attempt))
    if brake.is_on():
        parcel = replace(parcel, fault=_STOPPED)
    return _guarded(parcel, lambda parcel: _read(parcel, order.poison, spec)).to_table()


def write(table: pa.Table, spec: JobSpec) -> pa.Table:
    """A scored parcel in, the unit's receipt out (JSON); the commit happens here."""
    parcel = Parcel.from_table(table)
    try:
        receipt = _commit(parcel, spec)
    except Exception as error:  # the unit's edge, as in _guarded
        receipt = _failed(parcel.unit, _fault(error))
    return pa.table({"receipt": pa.array([json.dumps(receipt.as_dict())])})


def write_known(unit: Unit, spec: JobSpec) -> Receipt | None:
    """Read and commit a unit of which every pair has an earlier score.

    None where one has not, and where anything went wrong: nothing was committed then.
    """
    parcel = _guarded(Parcel(unit), lambda parcel: _read(parcel, (), spec, only_known=True))
    if parcel.fault is not None:
        return None
    try:
        return _commit(replace(parcel, engine=describe_session(spec.device).as_dict()), spec)
    except Exception:  # the unit's edge, as in _guarded; whoever tries it next says what it is
        return None


class Scorer:
    """The actor: one session for as long as it lives.

    Where scores are reused it is opened for the first pair that has none. A model that cannot be
    used is a fault in the receipt of every unit that needs it, since an actor that fails to start
    is started again and again, and its message lost.
    """

    def __init__(self, spec: JobSpec, brake: Brake | RemoteBrake) -> None:
        self._spec, self._brake = spec, brake
        self._engine = describe_session(spec.device).as_dict()
        if spec.reuse is None:
            with suppress(ShardrankError):
                _ = self._opened

    def __call__(self, table: pa.Table) -> pa.Table:
        """Prompts in, log-odds out; the prompts end here."""
        return _guarded(Parcel.from_table(table), self._score).to_table()

    @cached_property
    def _opened(self) -> tuple[Reranker, ScorerNotes]:
        reranker = build_reranker(self._spec)
        # A session over a paged graph plans for itself, without padding.
        if not isinstance(reranker.session, PagedSession):
            reranker.session = MeteredSession(reranker.session)
        return reranker, ScorerNotes(self._spec, reranker.session)

    def _score(self, parcel: Parcel) -> Parcel:
        if not len(parcel.pairs):
            return replace(parcel, engine=self._engine)
        reranker, notes = self._opened
        started = time.monotonic()
        if not self._brake.may_begin(parcel.unit.number):
            return Parcel(parcel.unit, fault=_STOPPED)
        # Before anything may kill this process: what it leaves is counted by the next.
        if begin_attempt(self._spec.output, parcel.unit, *parcel.attempts) is None:
            return Parcel(parcel.unit, fault=_died_of(parcel.unit, parcel.attempts[1]))
        taken_at = time.time()
        prompts = Prompts(parcel.token_ids, parcel.offsets, parcel.num_shared, parcel.truncated)
        logits = reranker.score_prompts(prompts)
        parcel = replace(
            parcel,
            token_ids=np.zeros(0, np.int32),
            log_odds=log_odds(logits),
            engine=reranker.description,
            seconds={**parcel.seconds, "score": time.monotonic() - started},
            scorer=worker_name(),
        )
        notes.scored(parcel, taken_at)
        return parcel


def build_reranker(spec: JobSpec) -> Reranker:
    """The model with the job's settings. Raises ModelError if it is not the planned one."""
    folder = verified_folder(spec.model_path, spec.cache_folder)
    if PreparedModel.load(folder).files != dict(spec.model_files):
        raise _exchanged(spec)
    return Reranker(
        folder,
        device=spec.device,
        threads=spec.threads,
        max_batch_tokens=spec.max_batch_tokens,
        reuse_prefix=spec.reuse_prefix,
        prompt_style=spec.prompting.style,
        instruction=spec.prompting.instruction,
        max_tokens=spec.prompting.max_tokens,
        windows=spec.prompting.windows,
    )


def _read(
    parcel: Parcel, poison: Sequence[int], spec: JobSpec, *, only_known: bool = False
) -> Parcel:
    started, unit = time.monotonic(), parcel.unit
    rows = read_unit(spec.input, unit, spec.layout, spec.input_columns, spec.max_bytes)
    wanted = pairs_to_score(rows, spec, poison)
    reused, hashes = Reused.none(), None
    if spec.pair_hash or spec.reuse is not None:
        hashes = hashes_of(rows, spec)
    if spec.reuse is not None and hashes is not None:
        reused = spec.reuse.find(hashes, np.flatnonzero(wanted))
        wanted[reused.places] = False
    if only_known and wanted.any():
        return replace(parcel, fault=_UNKNOWN)
    rejections: list[Rejection] = []
    prompts, pairs = Prompts.concatenate([]), np.zeros(0, np.int64)
    if wanted.any():
        prompts, pairs, rejections = tokenize(replace(rows, pair_ok=wanted), prompt_builder(spec))
    rejections += [rows.reject_row(row - unit.row_start, WORKER_DIED, _DEADLY) for row in poison]
    _refuse_bad_rows((*rows.rejections, *rejections), spec, unit)
    parcel = replace(
        parcel,
        rows=rows.to_ipc(),
        pairs=pairs,
        token_ids=prompts.token_ids,
        offsets=prompts.offsets,
        num_shared=prompts.num_shared,
        truncated=prompts.truncated,
        reused_places=reused.places,
        reused_log_odds=reused.log_odds,
        reused_num_tokens=reused.num_tokens,
        reused_truncated=reused.truncated,
        pair_hashes=hashes if spec.pair_hash and hashes is not None else parcel.pair_hashes,
        rejections=tuple(rejections),
        seconds={"read": time.monotonic() - started},
        ready_at=time.time(),
    )
    note_read(spec, parcel)
    return parcel


def _commit(parcel: Parcel, spec: JobSpec) -> Receipt:
    unit, fault = parcel.unit, parcel.fault
    if fault is not None and fault.permanent:
        return commit_tombstone(spec.output, unit, spec.fingerprints, fault.code, fault.message)
    if fault is not None:
        return _failed(unit, fault)
    rows = UnitTable.from_ipc(parcel.rows)
    values = np.full(rows.num_pairs, np.nan, np.float32)
    num_tokens = np.zeros(rows.num_pairs, np.int32)
    truncated = np.zeros(rows.num_pairs, np.bool_)
    values[parcel.pairs] = parcel.log_odds
    num_tokens[parcel.pairs] = np.diff(parcel.offsets)
    truncated[parcel.pairs] = parcel.truncated
    values[parcel.reused_places] = parcel.reused_log_odds
    num_tokens[parcel.reused_places] = parcel.reused_num_tokens
    truncated[parcel.reused_places] = parcel.reused_truncated
    reused = np.zeros(rows.num_pairs, np.bool_)
    reused[parcel.reused_places] = True
    output = build_output(
        rows,
        values,
        num_tokens,
        truncated,
        parcel.rejections,
        columns=spec.output_columns,
        top_k=spec.top_k,
        min_score=spec.min_score,
        reused=reused,
        pair_hashes=parcel.pair_hashes.reshape(-1, NUM_BYTES) if spec.pair_hash else None,
        choice=None if spec.cascade is None else choose(rows, spec.cascade),
    )
    _refuse_bad_rows(output.rejections, spec, unit)
    receipt = commit_unit(
        spec.output,
        unit,
        spec.fingerprints,
        output,
        Attempt(
            id=uuid.uuid4().hex[:12],
            engine=parcel.engine,
            seconds=parcel.seconds,
            reused_from=None if spec.reuse is None else spec.reuse.storage.display(),
        ),
    )
    if receipt.outcome == "committed":
        note_written(spec, parcel, receipt, output.rejections)
    return replace(receipt, worker=parcel.scorer)


def _refuse_bad_rows(rejections: Sequence[Rejection], spec: JobSpec, unit: Unit) -> None:
    if spec.fail_on_bad_row and rejections:
        first = rejections[0]
        place = "" if first.position is None else f", candidate {first.position}"
        raise BadRowError(
            f"{spec.input.display(unit.shard.path)}, row {first.row}{place}: {first.message} "
            f"({first.code}); mend the row, or set errors.on_bad_row to reject"
        )


def _guarded(parcel: Parcel, step: Callable[[Parcel], Parcel]) -> Parcel:
    """The step's parcel, or the same unit with a fault; a faulty parcel is passed on as it is."""
    if parcel.fault is not None:
        return parcel
    try:
        return step(parcel)
    except Exception as error:  # the unit's edge: whatever it is ends in the unit's receipt
        return Parcel(parcel.unit, fault=_fault(error))


def _failed(unit: Unit, fault: Fault) -> Receipt:
    return Receipt(unit.number, "failed", code=fault.code, message=fault.message)


def _died_of(unit: Unit, num_attempts: int) -> Fault:
    return Fault(WORKER_DIED, f"unit {unit.id} killed its worker in attempts up to {num_attempts}")


def _fault(error: Exception) -> Fault:
    if isinstance(error, ShardError):
        return Fault(error.code, str(error), permanent=True)
    return Fault(type(error).__name__, str(error) or repr(error))


@lru_cache(maxsize=2)
def prompt_builder(spec: JobSpec) -> PromptBuilder:
    """Kept by the worker process: reading a large tokenizer takes longer than a small unit."""
    folder = local_folder(spec.model_path, spec.cache_folder)
    planned = dict(spec.model_files)
    if file_sha256(folder / TOKENIZER_NAME) != planned[TOKENIZER_NAME]:
        raise _exchanged(spec)
    tokenizer = Tokenizer.load(folder)
    return spec.prompting.builder(tokenizer)


def _exchanged(spec: JobSpec) -> ModelError:
    return ModelError(
        f"{spec.model_path} is not the model that this job was planned with: its files were "
        "exchanged while the job ran; put them back, or choose another output.path"
    )
