"""The plan of a job: what is scored, how, and in which units. Written once, then only compared.

`_shardrank/job.json` is compact JSON: the fields behind both fingerprints by name, so that a
refusal can say what differs, and for each shard `[path, size, etag, num_rows, num_split_queries,
[[row_stop, num_pairs], ...]]`. Units follow each other from row 0, so a unit is where it stops.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import shardrank
from shardrank.config import InputColumns, OutputColumns
from shardrank.errors import InputError, OutputError, OutputMismatchError
from shardrank.store.filesystem import Storage
from shardrank.store.stored_plan import StoredPlan, StoredShard, reason_of
from shardrank.store.units import hive_values
from shardrank.types import Layout, Shard, Unit

FORMAT_VERSION = 1
FOLDER = "_shardrank"
PLAN_NAME = f"{FOLDER}/job.json"
TOP_K = "output.top_k"
MIN_SCORE = "output.min_score"
_NUM_NAMED = 5


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """sha256, hexadecimal, of what decides scores, and of that and all that shapes rows."""

    score: str
    output: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a job does.

    score_fields: all that a score depends on, flat, name -> JSON value.
    output_fields: all else that the output depends on, by the name of its setting; TOP_K and
        MIN_SCORE among them, None where nothing is cut.
    units: numbered from 0, in the order of the shards and of the rows in them.
    """

    created: str
    version: str
    score_fields: Mapping[str, Any]
    output_fields: Mapping[str, Any]
    layout: Layout
    input_columns: InputColumns
    output_columns: OutputColumns
    units: tuple[Unit, ...]

    @property
    def fingerprints(self) -> Fingerprints:
        """Both fingerprints; the output's covers the score's fields too."""
        return Fingerprints(
            score=fingerprint(self.score_fields),
            output=fingerprint({**self.score_fields, **self.output_fields}),
        )

    @property
    def shards(self) -> list[Shard]:
        """The shards, in the order of their paths; each has at least one unit."""
        return [shard for shard, _ in groupby(unit.shard for unit in self.units)]


def fingerprint(fields: Mapping[str, Any]) -> str:
    """sha256, hexadecimal, of the canonical JSON of the fields: their order does not matter."""
    return hashlib.sha256(_json(fields, sort_keys=True)).hexdigest()


def new_plan(
    score_fields: Mapping[str, Any],
    output_fields: Mapping[str, Any],
    layout: Layout,
    input_columns: InputColumns,
    output_columns: OutputColumns,
    units: Sequence[Unit],
) -> Plan:
    """A plan made now, by this version."""
    return Plan(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=shardrank.__version__,
        score_fields=_as_stored(score_fields),
        output_fields=_as_stored(output_fields),
        layout=layout,
        input_columns=input_columns,
        output_columns=output_columns,
        units=tuple(units),
    )


def load_plan(storage: Storage) -> Plan | None:
    """The plan that an output folder holds; None if it holds none.

    Raises OutputError if job.json is damaged, or of a newer shardrank.
    """
    try:
        content = storage.read_bytes(PLAN_NAME)
    except FileNotFoundError:
        return None
    place = storage.display(PLAN_NAME)
    try:
        tree = json.loads(content)
        version = tree["format_version"]
        if version == FORMAT_VERSION:
            return _from_stored(StoredPlan.model_validate_json(content, strict=True))
    except (ValueError, KeyError, TypeError, IndexError, InputError) as error:
        raise OutputError(
            f"{place} is damaged ({reason_of(error)}); the job can only be done again in another "
            "output folder"
        ) from error
    raise OutputError(
        f"{place} has format {version}, but shardrank {shardrank.__version__} knows format "
        f"{FORMAT_VERSION}; use the version that wrote it ({tree.get('version')})"
    )


def open_plan(storage: Storage, proposed: Plan) -> Plan:
    """Make the proposed plan that of the output folder, or join the one that is there.

    Returns the plan that holds. Units of a stored plan win over those proposed, so that a job
    goes on with the units that it began with.

    Raises OutputMismatchError if the stored plan is that of another job, OutputError if the
    folder holds files but no plan.
    """
    stored = load_plan(storage)
    if stored is None:
        _refuse_foreign_folder(storage)
        content = _json(_to_tree(proposed))
        try:
            storage.create_exclusive(PLAN_NAME, content)
        except FileExistsError:
            stored = load_plan(storage)
        else:
            _prove_exclusive(storage, content)
            return proposed
    if stored is None:
        raise OutputError(f"{storage.display(PLAN_NAME)} was deleted just now; run the job again")
    require_same_job(stored, proposed.score_fields, proposed.output_fields)
    require_same_input(stored, proposed.shards)
    return stored


def require_same_job(
    plan: Plan, score_fields: Mapping[str, Any], output_fields: Mapping[str, Any]
) -> None:
    """Refuse to go on with a job of other fields. Raises OutputMismatchError, naming each."""
    old = {**plan.score_fields, **plan.output_fields}
    new = _as_stored({**score_fields, **output_fields})
    lines = [
        _difference(name, old.get(name), new.get(name))
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]
    if lines:
        raise OutputMismatchError(
            f"the output belongs to another job: {'; '.join(lines)}. Set it back, or choose "
            "another output.path"
        )


def require_same_input(plan: Plan, shards: Sequence[Shard]) -> None:
    """Refuse to go on with another input. Raises OutputMismatchError, naming the first shards."""
    old = {shard.path: shard for shard in plan.shards}
    new = {shard.path: shard for shard in shards}
    changed = [
        path
        for path in old.keys() & new.keys()
        if (old[path].size, old[path].etag) != (new[path].size, new[path].etag)
    ]
    parts = [
        _named("gone", old.keys() - new.keys()),
        _named("new", new.keys() - old.keys()),
        _named("changed", changed),
    ]
    if any(parts):
        raise OutputMismatchError(
            "the input is not the one that the output was begun with: "
            f"{'; '.join(part for part in parts if part)}. Put it back, or choose another "
            "output.path"
        )


def _refuse_foreign_folder(storage: Storage) -> None:
    others = [file.path for file in storage.list_files(recursive=False) if file.path[0] != "."]
    # Another job may have begun in the meantime: then the files are its own.
    if others and not storage.exists(PLAN_NAME):
        raise OutputError(
            f"the output folder {storage.display()} is not empty and holds no shardrank job "
            f"(it holds {', '.join(others[:_NUM_NAMED])}); choose an empty or new folder"
        )


def _prove_exclusive(storage: Storage, content: bytes) -> None:
    """Some stores ignore the condition of a conditional put: find out on a harmless occasion."""
    try:
        storage.create_exclusive(PLAN_NAME, content)
    except FileExistsError:
        return
    storage.give_up_exclusive()


def _to_tree(plan: Plan) -> dict[str, Any]:
    shards = []
    for shard, units in groupby(plan.units, key=lambda unit: unit.shard):
        cuts = [[unit.row_stop, unit.num_pairs] for unit in units]
        shards.append(
            [shard.path, shard.size, shard.etag, shard.num_rows, shard.num_split_queries, cuts]
        )
    return {
        "format_version": FORMAT_VERSION,
        "created": plan.created,
        "version": plan.version,
        "score_fingerprint": plan.fingerprints.score,
        "output_fingerprint": plan.fingerprints.output,
        "score_fields": dict(plan.score_fields),
        "output_fields": dict(plan.output_fields),
        "layout": plan.layout,
        "input_columns": plan.input_columns.model_dump(),
        "output_columns": plan.output_columns.model_dump(),
        "shards": shards,
    }


def _from_stored(stored: StoredPlan) -> Plan:
    plan = Plan(
        created=stored.created,
        version=stored.version,
        score_fields=stored.score_fields,
        output_fields=stored.output_fields,
        layout=stored.layout,
        input_columns=stored.input_columns,
        output_columns=stored.output_columns,
        units=tuple(_units(stored.shards)),
    )
    found = Fingerprints(stored.score_fingerprint, stored.output_fingerprint)
    if found != plan.fingerprints:
        raise ValueError("its fingerprints are not those of its fields")
    return plan


def _units(shards: list[StoredShard]) -> Iterator[Unit]:
    number = 0
    for path, size, etag, num_rows, num_split_queries, cuts in shards:
        shard = Shard(path, size, etag, num_rows, hive_values(path), num_split_queries)
        row: int | None = 0
        for row_stop, num_pairs in cuts:
            if row is None or (row_stop is not None and row_stop < row):
                raise ValueError(f"the units of shard {path} do not follow each other")
            yield Unit(number, shard, row, row_stop, num_pairs)
            number, row = number + 1, row_stop


def _json(value: Any, *, sort_keys: bool = False) -> bytes:
    text = json.dumps(
        value, sort_keys=sort_keys, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return text.encode()


def _as_stored(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as they come back from JSON: a tuple is a list there."""
    stored: dict[str, Any] = json.loads(_json(fields))
    return stored


def _difference(name: str, old: Any, new: Any) -> str:
    """One field's change in words; of a table, such as the model's files, the keys that differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        return f"{name.replace('_', ' ')} differ ({', '.join(keys)})"
    return f"{name} was {_short(old)}, now {_short(new)}"


def _short(value: Any) -> str:
    text = "not set" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def _named(word: str, paths: Any) -> str:
    names = sorted(paths)
    if not names:
        return ""
    others = f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else ""
    return f"{word}: {', '.join(names[:_NUM_NAMED])}{others}"
