"""What prompts have in common at their front, and what is scored together. Pure functions.

The attention of a decoder looks back only: keys and values of a front that prompts share are the
same in all of them, and are computed once. Fronts nest: template and instruction, which all prompts
of a unit share (the trunk), then the query, which the documents of one query share.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from shardrank.engine.batching import plan_batches, plan_continuations
from shardrank.types import Int64Array, Prompts

_MIN_SAVED_TOKENS = 16
"""Fewer are not worth a run of their own, which costs as much as some 10 tokens."""


@dataclass(frozen=True, slots=True)
class Group:
    """Prompts that are scored after the same front.

    num_shared: tokens of that front, even, as the layout `prefix` asks for; 0 for none.
    batches: indices of prompts that go through the session together.
    """

    num_shared: int
    batches: tuple[Int64Array, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The groups, the longest first, and the front that all of them begin with.

    trunk: its tokens, even; 0 where there is nothing to share.
    """

    trunk: int
    groups: tuple[Group, ...]


def plan_without_prefixes(prompts: Prompts, indices: Int64Array, max_batch_tokens: int) -> Plan:
    """Every prompt from its first token, in batches."""
    batches = plan_batches(prompts.lengths[indices], max_batch_tokens)
    return Plan(0, (Group(0, tuple(indices[batch] for batch in batches)),))


def plan_prefixes(
    prompts: Prompts,
    indices: Int64Array,
    max_batch_tokens: int,
    *,
    batches_past: bool = False,
    shares_past: bool = False,
) -> Plan:
    """Fronts that are worth computing once, and the batches after each.

    indices: the prompts to score, int64 [n], each longer than its num_shared.
    max_batch_tokens: of the batches of prompts that have nothing in common.
    batches_past: whether a batch after a front may be more than one prompt. shares_past: whether
        such prompts share one past (batching.plan_continuations).
    """
    families: dict[bytes, list[int]] = {}
    for index in indices.tolist():
        families.setdefault(prompts[index][: prompts.num_shared[index]].tobytes(), []).append(index)
    num_bytes = prompts.token_ids.itemsize
    trunk = _even(_num_common_bytes(families) // num_bytes)
    if (len(families) - 1) * trunk < _MIN_SAVED_TOKENS:
        trunk = 0
    lengths = prompts.lengths
    num_all = int(lengths[indices].sum()) - sum(
        len(front) // num_bytes * len(members) for front, members in families.items()
    )
    groups = []
    for front, members in families.items():
        own = _even(len(front) // num_bytes)
        saved = (len(members) - 1) * (own - trunk)
        num_shared = own if saved >= _MIN_SAVED_TOKENS else trunk
        found = np.array(members, np.int64)
        if num_shared and batches_past:
            num_new = lengths[found] - num_shared
            batches = plan_continuations(
                num_new, num_shared, shares_past=shares_past, num_all=num_all
            )
        else:
            # A budget of 1 makes a batch of each prompt.
            batches = plan_batches(lengths[found], 1 if num_shared else max_batch_tokens)
        groups.append(Group(num_shared, tuple(found[batch] for batch in batches)))
    groups.sort(key=lambda group: -num_new_tokens(group, lengths))
    return Plan(trunk, tuple(groups))


def distinct(prompts: Prompts) -> tuple[Int64Array, Int64Array]:
    """Prompts without repetition: indices of the first of each kind, and which one each repeats.

    Returns int64 [num_distinct], and int64 [num_prompts], places in it; prompts without tokens are
    in neither, and have the place -1.
    """
    place: dict[bytes, int] = {}
    firsts: list[int] = []
    places = np.full(len(prompts), -1, np.int64)
    for index in np.flatnonzero(prompts.lengths).tolist():
        key = prompts[index].tobytes()
        if key not in place:
            place[key] = len(firsts)
            firsts.append(index)
        places[index] = place[key]
    return np.array(firsts, np.int64), places


def num_new_tokens(group: Group, lengths: Int64Array) -> int:
    """Tokens that are computed for a group after its front."""
    return sum(int((lengths[batch] - group.num_shared).sum()) for batch in group.batches)


def _even(number: int) -> int:
    return number - number % 2


def _num_common_bytes(rows: Collection[bytes]) -> int:
    """How many bytes all the rows begin with."""
    # In sorted order the first and the last differ where any two do.
    first, last = min(rows), max(rows)
    pairs = enumerate(zip(first, last, strict=False))
    return next((place for place, (one, other) in pairs if one != other), len(first))
