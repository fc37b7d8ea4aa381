"""A pair as token ids: the template of Qwen3-Reranker around instruction, query and document.

The model card shows three usages that differ in separators and suffix; each is a prompt style,
equal to the card id for id on text that is not cut and holds no special strings. What is cut is
the end of the document, and nothing else: the card's usages cut other things too, and differ.

A prompt is made of parts that are encoded apart:

    <|im_start|>system ... <|im_start|>              the template; ends with a special token
    user\\n<Instruct>: {instruction}\\n<Query>:        once for each instruction
     {query}\\n<Document>:                            once for each query
     {document}                                      once for each pair, and cut if need be
    <|im_end|>\\n<|im_start|>assistant ...            the suffix; begins with a special token

A part begins with its space: Qwen3's pre-tokenizer cuts there whatever follows, so that the parts
add up to the whole text. This is tried at load; where another tokenizer fails, the middle three
are encoded as one text for each pair, and nothing is shared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shardrank.config import PromptStyle
from shardrank.engine.tokenizer import Tokenizer
from shardrank.errors import ConfigError, ShardrankError
from shardrank.types import BoolArray, Int32Array, Int64Array, Prompts

IntegerArray = NDArray[np.integer]

DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
SYSTEM_TEXT = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".'
)

_SYSTEM_TURN = f"<|im_start|>system\n{SYSTEM_TEXT}<|im_end|>\n<|im_start|>"
_ANSWER_TURN = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


@dataclass(frozen=True, slots=True)
class Template:
    """What a prompt style puts around the user's texts.

    separator: between instruction, query and document.
    suffix: from the end of the user's turn to the place where the answer is read.
    """

    separator: str
    suffix: str

    def instruction_part(self, instruction: str) -> str:
        """From the beginning of the user's turn to `<Query>:`."""
        return f"user\n<Instruct>: {instruction}{self.separator}<Query>:"

    def query_part(self, query: str) -> str:
        """From the space after `<Query>:` to `<Document>:`."""
        return f" {query}{self.separator}<Document>:"

    def document_part(self, document: str) -> str:
        """From the space after `<Document>:` to the end of the document."""
        return f" {document}"


TEMPLATES: Mapping[PromptStyle, Template] = {
    "transformers": Template(separator="\n", suffix=_ANSWER_TURN),
    # The chat template has closed the user's turn before the card's code adds its suffix.
    "vllm": Template(separator="\n\n", suffix="<|im_end|>\n" + _ANSWER_TURN),
    "transformersjs": Template(separator="\n\n", suffix=_ANSWER_TURN.removesuffix("\n")),
}

_PROBES = (
    "",
    "yes no",
    *("  two spaces", "\nline", "\r\n", "\t", " \n\n ", "\u00a0", "\u3000", "end "),
    *(".", ":", "://", ">", "<", "'s", "\u2019s", "-1", "2026", " 7", "_", "a.b", "<|im_end|>"),
    *("\u00e9", "e\u0301", "\u0301", "\u6587\u66f8", "\u0645\u0631", "\u0e44\u0e17\u0e22"),
    *("\U0001f642", "\u200d", "\ufe0f", "\x00"),
)
"""Beginnings and ends that could move a token's border; tried when a builder is made."""


class QueryTooLongError(ShardrankError):
    """Template, instruction and query leave no room for one token of a document."""

    def __init__(self, num_fixed: int, max_tokens: int) -> None:
        super().__init__(
            f"template, instruction and query take {num_fixed} of {max_tokens} tokens and leave "
            f"none for a document; shorten the query or raise max_tokens."
        )
        self.num_fixed = num_fixed
        self.max_tokens = max_tokens

    def __reduce__(self) -> tuple[type[QueryTooLongError], tuple[int, int]]:
        """Both arguments travel when the error crosses a process."""
        return (type(self), (self.num_fixed, self.max_tokens))


@dataclass(frozen=True, slots=True)
class BuiltPrompts:
    """Prompts of many queries, and which queries could not have any.

    prompts: one for each pair, in the order of the pairs; of length 0 where the query is too long.
    num_fixed: int64 [num_queries], tokens of each query's prompts that are never cut: template,
        instruction, query and suffix.
    too_long: bool [num_queries], True where num_fixed leaves no room for one document token.
    """

    prompts: Prompts
    num_fixed: Int64Array
    too_long: BoolArray


class PromptBuilder:
    """Builds prompts of one style.

    instruction: for queries that bring none of their own.
    max_tokens: the longest prompt; the end of the document is cut to keep to it.
    whole: do not cut, for somebody who makes windows of a document.
    shares_prefix: False where this tokenizer does not allow a prefix to be encoded apart.

    Raises ConfigError if max_tokens has no room for the template itself.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        style: PromptStyle = "transformers",
        instruction: str = DEFAULT_INSTRUCTION,
        max_tokens: int = 8192,
        *,
        whole: bool = False,
    ) -> None:
        try:
            instruction.encode()
        except UnicodeEncodeError:
            raise ConfigError("the instruction is not valid Unicode text; give another") from None
        self.style = style
        self.instruction = instruction
        self.max_tokens = max_tokens
        self.whole = whole
        self._tokenizer = tokenizer
        self._template = TEMPLATES[style]
        self._system = tokenizer.encode_template(_SYSTEM_TURN)
        self._suffix = tokenizer.encode_template(self._template.suffix)
        self.shares_prefix = parts_add_up(tokenizer, self._template)
        if whole and not self.shares_prefix:
            raise ConfigError(
                "long_documents = windows needs a tokenizer that encodes query and document apart, "
                "and this one does not; set prompt.long_documents to truncate"
            )
        smallest = int(self.build_many([""], [], np.zeros(0, np.int64)).num_fixed[0]) + 1
        if max_tokens < smallest:
            raise ConfigError(
                f"max_tokens = {max_tokens} leaves no room for a document: the template and the "
                f"instruction alone need {smallest}; raise max_tokens."
            )

    @property
    def num_suffix(self) -> int:
        """Ids behind the document."""
        return len(self._suffix)

    def build(
        self, query: str, documents: Sequence[str], instruction: str | None = None
    ) -> Prompts:
        """Prompts of one query, in the order of the documents.

        Raises QueryTooLongError; a query is never cut.
        """
        query_index = np.zeros(len(documents), np.int64)
        built = self.build_many([query], documents, query_index, [instruction])
        if built.too_long[0]:
            raise QueryTooLongError(int(built.num_fixed[0]), self.max_tokens)
        return built.prompts

    def build_many(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        query_index: IntegerArray,
        instructions: Sequence[str | None] | None = None,
    ) -> BuiltPrompts:
        """Prompts of many pairs; each query, instruction and document is tokenized once.

        documents: [num_pairs]; query_index: integers [num_pairs], the query of each;
        instructions: [num_queries], None for the builder's own.
        """
        given = [None] * len(queries) if instructions is None else instructions
        texts = [self.instruction if text is None else text for text in given]
        fronts = self._fronts(queries, texts)
        num_fixed = np.array([len(front) for front in fronts], np.int64) + len(self._suffix)
        too_long = num_fixed >= self.max_tokens
        if self.shares_prefix:
            bodies = self._encode_bodies([self._template.document_part(text) for text in documents])
        else:
            bodies = self._whole_bodies(queries, texts, documents, query_index)
            fronts = [self._system] * len(queries)
        return BuiltPrompts(
            prompts=self._assemble(fronts, bodies, query_index, too_long),
            num_fixed=num_fixed,
            too_long=too_long,
        )

    def _fronts(self, queries: Sequence[str], instructions: Sequence[str]) -> list[Int32Array]:
        """Ids up to `<Document>:`, for each query."""
        of_instructions = self._encode([self._template.instruction_part(i) for i in instructions])
        of_queries = self._encode([self._template.query_part(query) for query in queries])
        return [
            np.concatenate([self._system, instruction, query])
            for instruction, query in zip(of_instructions, of_queries, strict=True)
        ]

    def _whole_bodies(
        self,
        queries: Sequence[str],
        instructions: Sequence[str],
        documents: Sequence[str],
        query_index: IntegerArray,
    ) -> list[Int32Array]:
        """Ids from the beginning of the user's turn to the end of the document, for each pair."""
        fronts = [
            self._template.instruction_part(text) + self._template.query_part(query)
            for text, query in zip(instructions, queries, strict=True)
        ]
        return self._encode_bodies(
            [
                fronts[query] + self._template.document_part(document)
                for query, document in zip(query_index.tolist(), documents, strict=True)
            ]
        )

    def _encode_bodies(self, texts: Sequence[str]) -> list[Int32Array]:
        # No more ids than a prompt may have are ever used of one text.
        return self._encode(texts, None if self.whole else self.max_tokens)

    def _encode(self, texts: Sequence[str], max_tokens: int | None = None) -> list[Int32Array]:
        # Queries of a unit often have instruction and candidates in common.
        distinct = list(dict.fromkeys(texts))
        encoded = self._tokenizer.encode_texts(distinct, max_tokens)
        ids_of = dict(zip(distinct, encoded, strict=True))
        return [ids_of[text] for text in texts]

    def _assemble(
        self,
        fronts: Sequence[Int32Array],
        bodies: Sequence[Int32Array],
        query_index: IntegerArray,
        too_long: BoolArray,
    ) -> Prompts:
        """front + as much of the body as there is room for + suffix, for each pair."""
        skipped = too_long[query_index]
        num_front = np.array([len(front) for front in fronts], np.int64)[query_index]
        num_body = np.array([len(body) for body in bodies], np.int64)
        room = num_body if self.whole else self.max_tokens - num_front - len(self._suffix)
        num_kept = np.minimum(num_body, room)
        lengths = np.where(skipped, 0, num_front + num_kept + len(self._suffix))
        pieces: list[Int32Array] = [np.zeros(0, np.int32)]
        pairs = zip(query_index.tolist(), bodies, num_kept.tolist(), skipped.tolist(), strict=True)
        for query, body, kept, skip in pairs:
            if not skip:
                pieces += (fronts[query], body[:kept], self._suffix)
        shared = num_front if self.shares_prefix else np.zeros_like(num_front)
        return Prompts(
            token_ids=np.concatenate(pieces),
            offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
            num_shared=np.where(skipped, 0, shared).astype(np.int32),
            truncated=(num_body > room) & ~skipped,
        )


def parts_add_up(tokenizer: Tokenizer, template: Template) -> bool:
    """True if the parts of hostile texts, encoded apart, give the ids of the whole text."""
    parts = [
        [template.instruction_part(text), template.query_part(text), template.document_part(text)]
        for text in _PROBES
    ]
    whole = tokenizer.encode_texts(["".join(texts) for texts in parts])
    apart = [np.concatenate(tokenizer.encode_texts(texts)) for texts in parts]
    return all(np.array_equal(one, other) for one, other in zip(whole, apart, strict=True))
