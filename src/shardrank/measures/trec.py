"""The text files of TREC: qrels and runs. Lines in, lines out; no files are opened here.

qrels: `query_id iteration doc_id relevance`; also three columns with a header, as BEIR has them.
run: `query_id Q0 doc_id rank score tag`. trec_eval ignores the rank and sorts by score, taken as
a 32-bit float, and where scores are equal by document id, backwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from shardrank.errors import InputError
from shardrank.types import Float32Array

Qrels = dict[str, dict[str, int]]
"""The relevance of judged documents: query_id -> doc_id -> grade."""


def parse_qrels(lines: Iterable[str], place: str) -> Qrels:
    """Read qrels of four columns, or of three (query, document, grade), split at white space.

    place: what the lines were read from, for messages. A first line whose grade is no number is
    taken for a header. Of two judgements of one document the last one counts.

    Raises InputError for any other line that does not fit.
    """
    qrels: Qrels = {}
    for number, line in enumerate(lines, start=1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) not in (3, 4):
            raise InputError(
                f"{place}, line {number}: {len(parts)} columns, where qrels have four (query_id 0 "
                "doc_id relevance) or three (query_id doc_id relevance)"
            )
        try:
            grade = whole(float(parts[-1]))
        except ValueError:
            if number == 1:
                continue
            raise InputError(
                f"{place}, line {number}: the relevance {parts[-1]!r} is not a whole number"
            ) from None
        qrels.setdefault(parts[0], {})[parts[-2]] = grade
    if not qrels:
        raise InputError(f"{place} holds no judgements; give TREC qrels, Parquet or column:NAME")
    return qrels


def parse_run(lines: Iterable[str], place: str) -> Iterator[tuple[str, str, float]]:
    """Read a run of six columns, line by line, as (query_id, doc_id, score).

    Raises InputError for a line that does not fit.
    """
    for number, line in enumerate(lines, start=1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 6:
            raise InputError(
                f"{place}, line {number}: {len(parts)} columns, where a run has six (query_id Q0 "
                "doc_id rank score tag)"
            )
        try:
            yield parts[0], parts[2], float(parts[4])
        except ValueError:
            raise InputError(
                f"{place}, line {number}: the score {parts[4]!r} is not a number"
            ) from None


def run_lines(
    query_id: str, doc_ids: Sequence[str], scores: ArrayLike, tag: str = "shardrank"
) -> Iterator[str]:
    """One query of a run, best first; trec_eval keeps this order whatever the ids are.

    scores: [num_documents], best first, such as log-odds; equal ones are set apart by the smallest
        step of a 32-bit float.

    Raises InputError for an id that holds white space, which a run cannot.
    """
    for rank, (doc_id, score) in enumerate(
        zip(doc_ids, strictly_decreasing(scores), strict=True), start=1
    ):
        for text in (query_id, doc_id):
            if len(text.split()) != 1 or text != text.strip():
                raise InputError(
                    f"the id {text!r} is empty or holds white space, which a TREC run cannot; "
                    "evaluate without --trec-run, or give the input other ids"
                )
        yield f"{query_id} Q0 {doc_id} {rank} {score!s} {tag}"


def strictly_decreasing(scores: ArrayLike) -> Float32Array:
    """Scores that fall at each step, as close as a float32 allows to those given.

    scores: [N], in the order that they are to have. Returns float32 [N].
    """
    found = np.asarray(scores, np.float32).copy()
    for i in range(1, len(found)):
        below = np.nextafter(found[i - 1], np.float32(-np.inf))
        # Not `min`: a score that is not below the one before it is moved, others stay.
        if not found[i] <= below:
            found[i] = below
    return found


def whole(grade: float) -> int:
    """A grade as an integer. Raises ValueError if it is none."""
    if not float(grade).is_integer():
        raise ValueError(f"{grade} is not a whole number")
    return int(grade)
