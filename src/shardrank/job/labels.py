"""`shardrank labels`: training labels from an output, unit by unit, resumable like the job itself.

`_shardrank/labels.json` in the folder says what is made of what, and is created exclusively; a
unit's `_shardrank/done/<unit>.json` is its commit, written after its files; `_SUCCESS` comes last.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import shardrank
from shardrank.errors import InputError, OutputError, OutputMismatchError
from shardrank.job.judgements import Judgements, query_ids_of
from shardrank.job.tasks import each
from shardrank.labels.chosen import LabelCounts
from shardrank.labels.formats import LabelFormat, make_labels
from shardrank.labels.rules import LabelRules
from shardrank.store.filesystem import Storage
from shardrank.store.plan import FOLDER, fingerprint
from shardrank.store.results import Results
from shardrank.store.same_file import create_same

MANIFEST_NAME = f"{FOLDER}/labels.json"
DONE_FOLDER = f"{FOLDER}/done"
SUCCESS_NAME = "_SUCCESS"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class LabelSet:
    """A finished set of labels: its folder's URL, and what became of the queries."""

    output: str
    form: LabelFormat
    counts: LabelCounts
    num_units: int
    num_units_done: int

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "output": self.output,
            **self.form.as_dict(),
            "counts": self.counts.as_dict(),
            "units": self.num_units,
            "units_by_this_run": self.num_units_done,
        }


@dataclass(frozen=True, slots=True)
class _Task:
    """What a worker is told."""

    results: Results
    judgements: Judgements | None
    rules: LabelRules
    form: LabelFormat
    target: Storage
    identity: str


def make_label_set(
    output: str,
    target: str,
    form: LabelFormat,
    rules: LabelRules,
    *,
    qrels: str | None = None,
    partial_output: bool = False,
    address: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LabelSet:
    """Write labels of an output folder to another folder; called again, it goes on.

    qrels: as for evaluate; None for the teacher's best as the positive. address: of a Ray cluster.
    progress: is told how many units of how many are done.

    Raises OutputMismatchError if the folder holds other labels, and what Results.open and
    Judgements.read raise.
    """
    results = Results.open(output, partial=partial_output)
    rules = form.complete(rules)
    judgements = None if qrels is None else Judgements.read(qrels, results)
    storage = Storage(target)
    _refuse_overlap(storage, results.storage)
    fields = _fields(results, judgements, rules, form)
    _open_manifest(storage, fields)
    identity = fingerprint(fields)
    done = {file.path.rsplit("/", 1)[-1] for file in storage.list_files(DONE_FOLDER)}
    pending = [number for number in results.numbers if _done_name(number) not in done]
    task = _Task(results, judgements, rules, form, storage, identity)
    num_done = 0
    for _ in each(partial(_label_unit, task), pending, address):
        num_done += 1
        if progress is not None:
            progress(len(results.numbers) - len(pending) + num_done, len(results.numbers))
    receipts = [_receipt(storage, number, identity) for number in results.numbers]
    counts = _total(receipts)
    if not counts.labelled:
        raise InputError(
            f"no query of {results.storage.display()} gave a label: {counts.without_positives:,} "
            f"of {counts.queries:,} have no positive, {counts.without_negatives:,} too few "
            "negatives; loosen the rules, or check that the ids of the qrels match"
        )
    _write_once(
        storage,
        SUCCESS_NAME,
        {
            "format_version": FORMAT_VERSION,
            "fingerprint": identity,
            "counts": counts.as_dict(),
            "files": [file for receipt in receipts for file in receipt["files"]],
        },
    )
    return LabelSet(storage.display(), form, counts, len(results.numbers), num_done)


def render_label_set(found: LabelSet) -> str:
    """A few lines for people."""
    counts = found.counts
    lines = [
        f"done: {counts.rows:,} rows of {counts.labelled:,} queries in {found.output}",
        f"      {counts.positives:,} positives, {counts.negatives:,} negatives "
        f"({counts.inverted:,} scored above a positive)",
    ]
    if counts.without_positives or counts.without_negatives:
        lines.append(
            f"      left out: {counts.without_positives:,} queries without a positive, "
            f"{counts.without_negatives:,} with too few negatives"
        )
    if not found.num_units_done:
        lines.append("      nothing was left to do: every unit was labelled before")
    return "\n".join(lines)


def _label_unit(task: _Task, number: int) -> int:
    """Write one unit's files, then its commit."""
    results, plan = task.results, task.results.plan
    columns = plan.input_columns
    names = results.schema(number).names
    wanted = [columns.query_id, columns.query]
    if columns.instruction in names:
        wanted.append(columns.instruction)
    fields = ["doc_id", "text", "log_odds", "score"]
    if task.judgements is not None:
        wanted += task.judgements.row_columns
        fields += task.judgements.pair_fields
    if task.form.name == "tevatron" and "title" in results.pair_names(number):
        fields.append("title")
    # What a cascade passed over has no log-odds of this model, and another's do not compare.
    ranked = results.read(number, list(dict.fromkeys(wanted)), list(dict.fromkeys(fields))).scored()
    ids = query_ids_of(ranked, results)
    default = str(plan.score_fields.get("prompt.instruction", ""))
    prompts = [default] * len(ranked)
    if columns.instruction in ranked.rows.column_names:
        own = ranked.rows.column(columns.instruction).to_pylist()
        prompts = [default if value is None else value for value in own]
    labels = make_labels(
        ranked,
        ranked.rows.column(columns.query).to_pylist(),
        ids,
        prompts,
        None if task.judgements is None else task.judgements.of_unit(ranked, ids),
        task.rules,
        task.form,
    )
    base = results.name(number).removesuffix(".parquet")
    written = []
    for place, content in labels.files.items():
        folder, _, suffix = place.rpartition("/")
        name = f"{folder}/{base}{suffix}" if folder else f"{base}{suffix}"
        create_same(task.target, name, content)
        written.append(name)
    receipt = {
        "unit": number,
        "fingerprint": task.identity,
        "files": written,
        "counts": labels.counts.as_dict(),
    }
    _write_once(task.target, f"{DONE_FOLDER}/{_done_name(number)}", receipt)
    return number


def _fields(
    results: Results, judgements: Judgements | None, rules: LabelRules, form: LabelFormat
) -> dict[str, Any]:
    """All that the labels depend on, by name."""
    source: Any = "the teacher's best"
    if judgements is not None:
        source = judgements.column or judgements.field or _digest(judgements.qrels)
    return {
        "score_fingerprint": results.plan.fingerprints.score,
        "output_fingerprint": results.plan.fingerprints.output,
        "input": _digest([[s.path, s.size, s.etag] for s in results.plan.shards]),
        "units": _digest(list(results.numbers)),
        "positives": source,
        **{f"format.{name}": value for name, value in form.as_dict().items()},
        **{f"rules.{name}": value for name, value in rules.as_dict().items()},
    }


def _open_manifest(storage: Storage, fields: Mapping[str, Any]) -> None:
    tree = {"format_version": FORMAT_VERSION, "version": shardrank.__version__, "fields": fields}
    if not storage.exists(MANIFEST_NAME):
        others = [file.path for file in storage.list_files(recursive=False) if file.path[0] != "."]
        if others:
            raise OutputError(
                f"{storage.display()} is not empty and holds no labels (it holds {others[0]}); "
                "choose an empty or new folder"
            )
        try:
            storage.create_exclusive(MANIFEST_NAME, _json(tree))
        except FileExistsError:
            pass
        else:
            return
    stored = json.loads(storage.read_bytes(MANIFEST_NAME))["fields"]
    differing = [
        f"{name} was {stored.get(name)}, now {fields.get(name)}"
        for name in {**stored, **fields}
        if stored.get(name) != fields.get(name)
    ]
    if differing:
        raise OutputMismatchError(
            f"{storage.display()} holds other labels: {'; '.join(differing)}. Set it back, or "
            "choose another --output"
        )


def _refuse_overlap(target: Storage, source: Storage) -> None:
    one, other = f"{target.location.rstrip('/')}/", f"{source.location.rstrip('/')}/"
    if one.startswith(other) or other.startswith(one):
        raise OutputError(
            f"the labels' folder {target.display()} and the output {source.display()} lie in each "
            "other; choose another --output"
        )


def _receipt(storage: Storage, number: int, identity: str) -> dict[str, Any]:
    name = f"{DONE_FOLDER}/{_done_name(number)}"
    receipt: dict[str, Any] = json.loads(storage.read_bytes(name))
    if receipt.get("fingerprint") != identity:
        raise OutputMismatchError(
            f"{storage.display(name)} belongs to other labels; choose another --output"
        )
    return receipt


def _total(receipts: list[dict[str, Any]]) -> LabelCounts:
    sums = dict.fromkeys(LabelCounts().as_dict(), 0)
    for receipt in receipts:
        for name in sums:
            sums[name] += receipt["counts"][name]
    return LabelCounts(**sums)


def _write_once(storage: Storage, name: str, tree: Mapping[str, Any]) -> None:
    create_same(storage, name, _json(tree))


def _done_name(number: int) -> str:
    return f"{number:06d}.json"


def _json(tree: Mapping[str, Any]) -> bytes:
    return json.dumps(tree, allow_nan=False, separators=(",", ":"), ensure_ascii=True).encode()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
