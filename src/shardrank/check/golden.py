"""Pairs whose token ids and log-odds others have published for Qwen3-Reranker."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from shardrank.engine.prompt import DEFAULT_INSTRUCTION
from shardrank.types import Int32Array

RED_PLANET_SOURCE = (
    "sentence-transformers cad2119, tests/cross_encoder/test_model.py (Qwen3-Reranker-0.6B, fp32)"
)


@dataclass(frozen=True, slots=True)
class GoldenPair:
    """A pair in the prompt style `transformers`.

    num_tokens, digest: of its ids as int32 little-endian, sha256 in hex, cut to 32 digits.
    log_odds: of Qwen/Qwen3-Reranker-0.6B in fp32; None where only the ids are known.
    """

    query: str
    document: str
    num_tokens: int
    digest: str
    log_odds: float | None = None
    instruction: str = DEFAULT_INSTRUCTION


_PLANET = "Which planet is known as the Red Planet?"
_CAPITAL = "法国首都是哪里？"

GOLDEN_PAIRS = (
    GoldenPair(
        _PLANET,
        "Venus is often called Earth's twin because of its similar size and proximity.",
        95,
        "92b01c1a4d681fbcbcd609a34409886c",
        -3.109297752380371,
    ),
    GoldenPair(
        _PLANET,
        "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
        98,
        "83d8ec5164ec9ee7b75b0f12c8396684",
        7.120389938354492,
    ),
    GoldenPair(
        _PLANET,
        "Jupiter, the largest planet in our solar system, has a prominent red spot.",
        96,
        "7cd148cad6dcfb6b198b16be9bd00ca1",
        -0.3787546157836914,
    ),
    GoldenPair(
        _PLANET,
        "Saturn, famous for its rings, is sometimes mistaken for the Red Planet.",
        95,
        "48b0e967d34ad3b3d68221db27668638",
        3.541637420654297,
    ),
    # sglang pull request 16403; the instruction ends with a full stop there.
    GoldenPair(
        _CAPITAL,
        "法国的首都是巴黎。",
        86,
        "f594bd8fb9be306c923e9bcb89191bcc",
        instruction=f"{DEFAULT_INSTRUCTION}.",
    ),
    GoldenPair(
        _CAPITAL,
        "香蕉是黄色的水果。",
        87,
        "f47e234b66348a9d5b8cb6cf2ca5effc",
        instruction=f"{DEFAULT_INSTRUCTION}.",
    ),
)


def digest_of_ids(token_ids: Int32Array) -> str:
    """The digest that stands for a prompt's ids, int32 [num_tokens]."""
    return hashlib.sha256(token_ids.astype("<i4").tobytes()).hexdigest()[:32]
