"""The hash of a pair: of all that its score depends on, and of nothing else."""

import hashlib
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shardrank.store.pair_hash import as_arrow, from_arrow, pair_hashes

JOB = hashlib.sha256(b"job").hexdigest()


def hashes(
    queries: Sequence[str],
    texts: Sequence[str],
    query_index: Sequence[int],
    instructions: Sequence[str | None] | None = None,
    job: str = JOB,
    default: str = "find",
) -> list[bytes]:
    index, wanted = np.array(query_index, np.int64), np.ones(len(texts), np.bool_)
    found = pair_hashes(job, queries, instructions, default, texts, index, wanted)
    return [row.tobytes() for row in found]


def one(query: str, text: str, instruction: str | None = None, **options: str) -> bytes:
    return hashes([query], [text], [0], [instruction], **options)[0]


def test_a_hash_is_what_the_page_on_reuse_says() -> None:
    front = bytes.fromhex(JOB)
    for part in ("find", "größe?"):
        front += len(part.encode()).to_bytes(8, "little") + part.encode()
    expected = hashlib.blake2b(front, digest_size=4).digest()
    expected += hashlib.blake2b(front + "東京".encode(), digest_size=12).digest()
    assert one("größe?", "東京") == expected


def test_pairs_of_one_query_begin_alike_and_end_apart() -> None:
    first, second, other = hashes(["a", "b"], ["x", "y", "x"], [0, 0, 1])
    assert first[:4] == second[:4] != other[:4]
    assert len({first, second, other}) == 3


def test_job_and_instruction_and_where_a_text_ends_are_part_of_it() -> None:
    variants = [
        one("a", "b"),
        one("ab", ""),
        one("", "ab"),
        one("a", "b", "another"),
        one("a", "b", default="another one"),
        one("a", "b", job=hashlib.sha256(b"other").hexdigest()),
        one("a", "b", ""),
    ]
    assert len(set(variants)) == len(variants)


def test_the_default_instruction_is_as_good_as_the_same_of_the_row() -> None:
    assert one("a", "b", None, default="find") == one("a", "b", "find", default="other")


@given(st.lists(st.tuples(st.sampled_from("ab"), st.text(max_size=3)), max_size=12))
def test_equal_pairs_and_only_they_have_equal_hashes(pairs: list[tuple[str, str]]) -> None:
    found = hashes(["a", "b"], [text for _, text in pairs], ["ab".index(q) for q, _ in pairs])
    assert len(set(found)) == len(set(pairs))


def test_hashes_survive_arrow_and_slices_of_it() -> None:
    given_ = np.arange(5 * 16, dtype=np.uint8).reshape(5, 16)
    np.testing.assert_array_equal(from_arrow(as_arrow(given_)), given_)
    np.testing.assert_array_equal(from_arrow(as_arrow(given_)[1:4]), given_[1:4])
