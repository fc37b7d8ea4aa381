"""The model card's prompt (its transformers usage), cut where training shares its parts."""

from __future__ import annotations

from dataclasses import dataclass

import lexicon
from tokenizers import Tokenizer

HEAD = (
    f"<|im_start|>system\n{lexicon.SYSTEM}<|im_end|>\n<|im_start|>user\n"
    f"<Instruct>: {lexicon.INSTRUCTION}\n<Query>:"
)
MIDDLE = "\n<Document>:"
TAIL = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


@dataclass(frozen=True)
class Prompt:
    """Token ids of the fixed parts: before the query, before the document, after the document."""

    head: list[int]
    middle: list[int]
    tail: list[int]

    @classmethod
    def build(cls, tokenizer: Tokenizer) -> Prompt:
        parts = (
            tokenizer.encode(part, add_special_tokens=False).ids for part in (HEAD, MIDDLE, TAIL)
        )
        return cls(*parts)
