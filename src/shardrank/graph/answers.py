"""The tokens that a reranker answers with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tokenizers

from shardrank.engine.tokenizer import Tokenizer
from shardrank.errors import ModelError


@dataclass(frozen=True, slots=True)
class AnswerIds:
    """Ids of the two answers, and of what fills a batch."""

    yes: int
    no: int
    pad: int


def find_answer_ids(
    path: Path, vocabulary_size: int, said_by: str = "config.json has vocab_size"
) -> AnswerIds:
    """Ids of yes, no and the padding token in a tokenizer.json.

    vocabulary_size: ids that the model knows; said_by: where that is written, for the message.
    Raises ModelError if the file is missing or is no tokenizer of a Qwen3 reranker, or if it can
    give an id that the model does not know.
    """
    if not path.is_file():
        raise ModelError(f"{path.parent} holds no {path.name}; give a complete checkpoint.")
    # Refuses a tokenizer that lacks a token of the prompts' template.
    largest_id = Tokenizer.load(path.parent).largest_id
    vocabulary = tokenizers.Tokenizer.from_file(str(path))
    ids: list[int] = []
    for token in ("yes", "no", "<|endoftext|>"):
        id = vocabulary.token_to_id(token)
        if id is None:
            raise ModelError(
                f"{path} has no token {token!r}, which a Qwen3 reranker needs; take the "
                f"tokenizer.json of the same checkpoint."
            )
        ids.append(id)
    if largest_id >= vocabulary_size:
        raise ModelError(
            f"{path} gives ids up to {largest_id} and {said_by} = {vocabulary_size}; take the "
            f"tokenizer.json of the same checkpoint."
        )
    return AnswerIds(*ids)
