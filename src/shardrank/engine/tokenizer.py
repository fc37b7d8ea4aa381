"""Text to token ids, in such a way that no user's text ever becomes a special token.

The same tokenizer.json is loaded twice. `full` knows the special tokens and reads our own template
only. `plain` lacks them and reads everything that a user wrote; it cannot give a special id, since
none is left in its vocabulary. encode_special_tokens=True of the tokenizers library would not do:
it leaves `<think>` and `</think>` special in Qwen3's file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from shardrank.engine.model import TOKENIZER_NAME
from shardrank.errors import ModelError
from shardrank.types import Int32Array

TEMPLATE_TOKENS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
"""The special tokens that the prompts of Qwen3-Reranker are made of."""

_CHUNK_CHARACTERS = 1_000_000


class Tokenizer:
    """The tokenizer of a prepared model.

    data: the bytes of a tokenizer.json; what it says of truncation and padding is not followed.
    name: what error messages call it.

    Raises ModelError if the bytes are not a tokenizer, lack a token of TEMPLATE_TOKENS, or define
    one whose special tokens plain text could still reach.
    """

    def __init__(self, data: bytes, name: str = TOKENIZER_NAME) -> None:
        definition = _definition(data, name)
        added = {token["content"]: token["id"] for token in definition["added_tokens"]}
        self._full = _load(definition, name)
        self._plain = _load(_without_added_tokens(definition, added, name), name)
        self.special_ids = frozenset(added.values())
        self._refuse_missing(added, name)
        self._refuse_reachable(name)

    @staticmethod
    def load(folder: Path) -> Tokenizer:
        """The tokenizer of a prepared model's folder. Raises ModelError."""
        path = folder / TOKENIZER_NAME
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ModelError(
                f"{path} cannot be read: {error.strerror}; copy the whole model folder again."
            ) from error
        return Tokenizer(data, str(path))

    @property
    def largest_id(self) -> int:
        """The largest token id that it can give."""
        return max(self._full.get_vocab(with_added_tokens=True).values())

    def encode_template(self, text: str) -> Int32Array:
        """Ids of our own text, int32 [num_tokens]; special tokens in it are recognised."""
        return np.array(self._full.encode(text, add_special_tokens=False).ids, np.int32)

    def encode_texts(self, texts: Sequence[str], max_tokens: int | None = None) -> list[Int32Array]:
        """Ids of what users wrote, int32 [num_tokens] for each text; never a special id.

        max_tokens: keep that many ids at the front of each text.

        Raises TypeError for a text that is not valid Unicode (a lone surrogate).
        """
        # Chunks, since an Encoding takes hundreds of bytes a token and its ids four.
        return [
            np.array(encoding.ids[:max_tokens], np.int32)
            for chunk in _chunks(texts)
            for encoding in self._plain.encode_batch_fast(chunk, add_special_tokens=False)
        ]

    def decode(self, token_ids: Sequence[int] | Int32Array) -> str:
        """Text for people to read, special tokens included; NFC of what was encoded."""
        return str(self._full.decode([int(i) for i in token_ids], skip_special_tokens=False))

    def _refuse_missing(self, added: dict[str, int], name: str) -> None:
        for token in TEMPLATE_TOKENS:
            if self.encode_template(token).tolist() != [added.get(token)]:
                raise ModelError(
                    f"{name} has no special token {token} with an id of its own, and every prompt "
                    f"needs it; take the tokenizer.json of the same checkpoint as the model."
                )

    def _refuse_reachable(self, name: str) -> None:
        vocabulary = self._plain.get_vocab(with_added_tokens=False)
        if reachable := {text for text, id in vocabulary.items() if id in self.special_ids}:
            raise _forgeable(name, reachable)


def _definition(data: bytes, name: str) -> dict[str, Any]:
    try:
        definition = json.loads(data)
    except ValueError as error:
        raise ModelError(f"{name} is not JSON ({error}); copy the model folder again.") from error
    if not isinstance(definition, dict) or not isinstance(definition.get("model"), dict):
        raise ModelError(
            f"{name} is JSON but not a tokenizer of the tokenizers library (it has no model); "
            f"take the tokenizer.json of the model's checkpoint."
        )
    return {**definition, "added_tokens": definition.get("added_tokens") or []}


def _without_added_tokens(
    definition: dict[str, Any], added: dict[str, int], name: str
) -> dict[str, Any]:
    """The same tokenizer without its added tokens, in the vocabulary of its model as well.

    A trainer of the tokenizers library writes special tokens into both places. Taking one out of
    the vocabulary changes no other text, unless it stands for unknown text or is made by merges.
    """
    model = definition["model"]
    if model.get("unk_token") in added:
        raise _forgeable(name, {model["unk_token"]})
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict) and added.keys() & vocabulary.keys():
        merges = (
            pair.split(" ") if isinstance(pair, str) else pair for pair in model.get("merges", [])
        )
        if merged := added.keys() & {"".join(pair) for pair in merges}:
            raise _forgeable(name, merged)
        kept = {text: id for text, id in vocabulary.items() if text not in added}
        model = {**model, "vocab": kept}
    # The post-processor only adds special tokens; without added_tokens it may not load.
    return {**definition, "model": model, "added_tokens": [], "post_processor": None}


def _forgeable(name: str, tokens: Set[str]) -> ModelError:
    return ModelError(
        f"{name} gives the special token {min(tokens)!r} for ordinary text, so a document could "
        f"forge a prompt; such a tokenizer is not supported."
    )


def _load(definition: dict[str, Any], name: str) -> tokenizers.Tokenizer:
    data = json.dumps(definition, ensure_ascii=False).encode()
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(data)
    except Exception as error:  # the library raises bare Exception and ValueError
        raise ModelError(
            f"{name} is not a usable tokenizer ({error}); take the tokenizer.json of the model's "
            f"checkpoint."
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    num_characters = 0
    for text in texts:
        chunk.append(text)
        num_characters += len(text)
        if num_characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, num_characters = [], 0
    if chunk:
        yield chunk
