"""Pairs in, scores out: the engine's parts tied together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shardrank.config import PromptStyle
from shardrank.engine.machine import num_cores
from shardrank.engine.memory_plan import NUM_CUDA_CALLERS
from shardrank.engine.model import PreparedModel, builtin_folder
from shardrank.engine.onnx_session import open_session
from shardrank.engine.prompt import BuiltPrompts, PromptBuilder, QueryTooLongError
from shardrank.engine.ranking import log_odds, rank_order, sigmoid
from shardrank.engine.scoring import (
    DEFAULT_MAX_BATCH_TOKENS,
    MAX_TOKENS_IN_HAND,
    MAX_TOKENS_IN_HAND_PER_CALLER,
    ScoringOptions,
    score_prompts,
)
from shardrank.engine.session import Device, Session
from shardrank.engine.tokenizer import Tokenizer
from shardrank.engine.windows import Windows, best_of_windows, cut_windows
from shardrank.errors import ConfigError, InputError, ModelError
from shardrank.types import Float32Array, Prompts

DEMO = "demo"


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """A document and what the model thinks of it.

    index: its place among the documents given, from 0.
    log_odds: what it is ranked by. score: sigmoid of log_odds, the model card's score.
    rank: from 1, the best. num_tokens: of the whole prompt. truncated: True if it was cut.
    """

    index: int
    log_odds: float
    score: float
    rank: int
    num_tokens: int
    truncated: bool
    text: str


class Reranker:
    """Scores documents for queries with a prepared model.

        >>> reranker = Reranker("demo")
        >>> best = reranker.rank("What do bees eat?", ["Nectar.", "Rooks move straight."])[0]

    model: a prepared model's folder, or "demo" for the one that comes with shardrank.
    device: "cpu" (default) or "cuda". threads: that compute; None for every core it may use.
    max_batch_tokens: tokens of one batch, padding included; more takes more memory.
    reuse_prefix: compute once what prompts have in common, where the model's layout allows.
    prompt_style, instruction, max_tokens: None for what the model was prepared with.
    windows: score long documents in windows, the best of which counts, instead of cutting them.
    session: takes the place of the model's own; shardrank.testing.FakeSession fits.

    Attributes of these names hold what is in force: model, tokenizer, prompts (the builder),
    session, options, windows.

    Raises ModelError if the model cannot be used, ConfigError for a setting that it cannot honour.
    """

    def __init__(
        self,
        model: str | Path = DEMO,
        *,
        device: Device | None = None,
        threads: int | None = None,
        max_batch_tokens: int | None = None,
        reuse_prefix: bool = True,
        prompt_style: PromptStyle | None = None,
        instruction: str | None = None,
        max_tokens: int | None = None,
        windows: Windows | None = None,
        session: Session | None = None,
    ) -> None:
        folder = builtin_folder() if model == DEMO else Path(model)
        self.model = PreparedModel.load(folder)
        tokenizer = Tokenizer.load(folder)
        _refuse_other_vocabulary(tokenizer, self.model, folder)
        self.tokenizer = tokenizer
        self.prompts = PromptBuilder(
            tokenizer,
            prompt_style or self.model.prompt_style,
            self.model.instruction if instruction is None else instruction,
            _max_tokens(max_tokens, self.model),
            whole=windows is not None,
        )
        self.windows = windows
        # A thread that calls a session of one thread wastes nothing at the end of each operator.
        num_callers = NUM_CUDA_CALLERS if device == "cuda" else threads or num_cores()
        batch_tokens = max_batch_tokens or DEFAULT_MAX_BATCH_TOKENS[device or "cpu"]
        self.session = session or open_session(
            folder, self.model, device=device or "cpu", threads=1
        )
        self.options = ScoringOptions(
            max_batch_tokens=batch_tokens,
            num_callers=num_callers,
            reuse_prefix=reuse_prefix,
            max_tokens_in_hand=_max_tokens_in_hand(device or "cpu", num_callers, batch_tokens),
        )

    @property
    def description(self) -> dict[str, str]:
        """onnxruntime_version, provider and instruction_set of the session."""
        return self.session.description.as_dict()

    def score(
        self, pairs: Iterable[tuple[str, str]], instruction: str | None = None
    ) -> Float32Array:
        """Log-odds of (query, document) pairs, float32 [num_pairs] in their order.

        Raises InputError for text that is not Unicode and ModelError where the model gives no
        finite number, both with the pair's number, and QueryTooLongError.
        """
        given = list(pairs)
        documents = [document for _, document in given]
        refuse_broken_text([query for query, _ in given], "query")
        refuse_broken_text(documents, "document")
        refuse_broken_text([instruction or ""], "instruction")
        queries = list(dict.fromkeys(query for query, _ in given))
        place = {query: number for number, query in enumerate(queries)}
        query_index = np.array([place[query] for query, _ in given], np.int64)
        built = self.prompts.build_many(
            queries, documents, query_index, [instruction] * len(queries)
        )
        return self.log_odds_of(built)

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        instruction: str | None = None,
    ) -> list[RankedDocument]:
        """The documents, best first; equal ones keep their order. top_k: None for all of them.

        Raises as `score` does.
        """
        if isinstance(documents, str):
            raise InputError("documents is one text; give a list of texts.")
        refuse_broken_text([query], "query")
        refuse_broken_text(documents, "document")
        refuse_broken_text([instruction or ""], "instruction")
        prompts = self.prompts.build(query, documents, instruction)
        values = self._finite_log_odds(prompts)
        scores = sigmoid(values)
        order, ranks = rank_order(values, np.zeros(len(values), np.int64))
        return [
            RankedDocument(
                index=index,
                log_odds=float(values[index]),
                score=float(scores[index]),
                rank=int(ranks[index]),
                num_tokens=len(prompts[index]),
                truncated=bool(prompts.truncated[index]),
                text=documents[index],
            )
            for index in order[:top_k].tolist()
        ]

    def score_prompts(self, prompts: Prompts) -> Float32Array:
        """Logits of prompts; see engine.scoring."""
        pad_id = self.model.pad_id
        if self.windows is None:
            return score_prompts(self.session, prompts, pad_id, self.options)
        cut, owner_of = cut_windows(
            prompts, self.windows, self.prompts.num_suffix, self.prompts.max_tokens
        )
        return best_of_windows(score_prompts(self.session, cut, pad_id, self.options), owner_of)

    def log_odds_of(self, built: BuiltPrompts) -> Float32Array:
        """Log-odds of prompts, float32 [num_prompts], all finite.

        Raises QueryTooLongError if a query had no room for a document, and ModelError.
        """
        if built.too_long.any():
            num_fixed = int(built.num_fixed[np.argmax(built.too_long)])
            raise QueryTooLongError(num_fixed, self.prompts.max_tokens)
        return self._finite_log_odds(built.prompts)

    def _finite_log_odds(self, prompts: Prompts) -> Float32Array:
        values = log_odds(self.score_prompts(prompts))
        if not np.isfinite(values).all():
            pair = int(np.argmin(np.isfinite(values)))
            raise ModelError(
                f"the model gave {values[pair]} for pair {pair} (counted from 0); "
                f"`shardrank check` tells whether the model or this machine is at fault."
            )
        return values


def refuse_broken_text(texts: Sequence[str], what: str) -> None:
    """Raise InputError for what is not text, or holds a lone surrogate, by its number.

    what: "query" or "document". The tokenizers library would raise a bare TypeError.
    """
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(
                f"{what} {number} (counted from 0) is {type(text).__name__}; give text."
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{what} {number} (counted from 0) has a lone surrogate at character "
                f"{error.start}, which is not valid Unicode; replace it, for example with "
                f"text.encode('utf-8', 'replace').decode()."
            ) from None


def _max_tokens_in_hand(device: Device, num_callers: int, max_batch_tokens: int) -> int:
    if device == "cuda":
        # What the device has room for is known to its session.
        return num_callers * max_batch_tokens
    return max(MAX_TOKENS_IN_HAND, num_callers * MAX_TOKENS_IN_HAND_PER_CALLER)


def _max_tokens(asked: int | None, model: PreparedModel) -> int:
    if asked is not None and asked > model.max_tokens:
        raise ConfigError(
            f"max_tokens = {asked} is more than the {model.max_tokens} that the model takes; give "
            f"at most that."
        )
    return asked or model.max_tokens


def _refuse_other_vocabulary(tokenizer: Tokenizer, model: PreparedModel, folder: Path) -> None:
    size = model.architecture.get("vocabulary_size")
    if size is not None and tokenizer.largest_id >= size:
        raise ModelError(
            f"{folder}: the tokenizer gives ids up to {tokenizer.largest_id} and the model knows "
            f"{size}; take tokenizer.json and weights of the same checkpoint."
        )
