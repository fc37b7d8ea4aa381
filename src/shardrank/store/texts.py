"""Whether texts can be used, found without ever decoding one that cannot be decoded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardrank.store.queries import as_bytes

_MAX_INT64 = 2**63 - 1
Problem = tuple[str, str]
"""A code for programs and a message for people."""


@dataclass(frozen=True, slots=True)
class CheckedTexts:
    """Texts that can be decoded, and why the others cannot be used.

    values: large_string [N], null wherever there is a problem, and where the input is null.
    problems: by index.
    """

    values: pa.Array
    problems: dict[int, Problem]


def check_texts(
    texts: pa.Array, name: str, max_bytes: int, null_code: str | None = None
) -> CheckedTexts:
    """Find texts that are too long, or are not UTF-8, or, where null_code is given, are null.

    texts: any kind of text, dictionary-encoded or not, or integers (which have no problems).
    name: what the text is, for messages.

    Codes: null_code, too_many_bytes, invalid_utf8.
    """
    if pa.types.is_integer(texts.type) and null_code is None:
        return CheckedTexts(texts.cast(pa.large_string()), {})
    data = as_bytes(texts)
    problems: dict[int, Problem] = {}
    if null_code is not None:
        for index in _where(data.is_null()):
            problems[index] = (null_code, f"the {name} is null")
    lengths = pc.binary_length(data)
    most = min(max_bytes, _MAX_INT64)
    for index in _where(pc.fill_null(pc.greater(lengths, most), False)):
        problems[index] = (
            "too_many_bytes",
            f"the {name} has {lengths[index]} bytes, more than errors.max_bytes = {max_bytes}",
        )
    data = _without(data, problems)
    values = data.view(pa.large_string())
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        invalid = _invalid(data, name)
        problems |= invalid
        values = _without(data, invalid).view(pa.large_string())
    return CheckedTexts(values, problems)


def _invalid(data: pa.Array, name: str) -> dict[int, Problem]:
    problems: dict[int, Problem] = {}
    for index, value in enumerate(data.to_pylist()):
        if value is None:
            continue
        try:
            value.decode("utf-8")
        except UnicodeDecodeError as error:
            problems[index] = (
                "invalid_utf8",
                f"the {name} is not UTF-8: {error.reason} at byte {error.start}",
            )
    return problems


def _without(data: pa.Array, problems: dict[int, Problem]) -> pa.Array:
    """The same, null at each problem."""
    if not problems:
        return data
    good = np.ones(len(data), np.bool_)
    good[list(problems)] = False
    return pc.if_else(pa.array(good), data, pa.scalar(None, data.type))


def _where(mask: pa.Array) -> list[int]:
    indices: list[int] = np.flatnonzero(mask.to_numpy(zero_copy_only=False)).tolist()
    return indices
