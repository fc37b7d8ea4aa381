"""Whether the tokenizer is the one that the weights were trained with."""

from __future__ import annotations

from shardrank.check.golden import GOLDEN_PAIRS, GoldenPair, digest_of_ids
from shardrank.check.result import CheckResult
from shardrank.engine.model import TOKENIZER_NAME, PreparedModel
from shardrank.engine.prompt import PromptBuilder
from shardrank.engine.tokenizer import Tokenizer

# Of Qwen3: the tokenizer's own size, and the embedding's, which some exports round up.
_QWEN_VOCABULARY_SIZES = (151_669, 151_936)
_QWEN_ANSWERS = (9693, 2152)


def check_tokens(tokenizer: Tokenizer, model: PreparedModel) -> CheckResult:
    """The answers' and the padding's ids are this tokenizer's, and the embedding has all ids."""
    expected = {"yes": model.yes_id, "no": model.no_id}
    found = {text: tokenizer.encode_texts([text])[0].tolist() for text in expected}
    wrong = [
        f"{text} {found[text]} is not {id}" for text, id in expected.items() if found[text] != [id]
    ]
    if model.pad_id not in tokenizer.special_ids:
        wrong.append(f"the padding {model.pad_id} is no special token")
    size = model.architecture.get("vocabulary_size")
    if size is not None and tokenizer.largest_id >= size:
        wrong.append(f"ids go up to {tokenizer.largest_id} and the model has {size}")
    if wrong:
        return CheckResult("tokens", "fail", f"{TOKENIZER_NAME}: {'; '.join(wrong)}")
    return CheckResult(
        "tokens", "pass", f"yes {model.yes_id}, no {model.no_id}, padding {model.pad_id}"
    )


def check_prompt_ids(tokenizer: Tokenizer, model: PreparedModel) -> CheckResult:
    """Published prompts have the published ids, where the model is of Qwen3's vocabulary."""
    size = model.architecture.get("vocabulary_size")
    answers = tuple(
        id for text in ("yes", "no") for id in tokenizer.encode_texts([text])[0].tolist()
    )
    if size not in _QWEN_VOCABULARY_SIZES and answers != _QWEN_ANSWERS:
        return CheckResult(
            "prompt ids", "skip", f"the vocabulary ({size or 'of unknown size'}) is not Qwen3's"
        )
    wrong = [pair.document for pair in GOLDEN_PAIRS if not _has_published_ids(tokenizer, pair)]
    if wrong:
        return CheckResult(
            "prompt ids",
            "fail",
            f"{len(wrong)} of {len(GOLDEN_PAIRS)} published prompts have other ids, such as that "
            f"of {wrong[0]!r}; take the tokenizer.json of the model's own checkpoint",
        )
    return CheckResult("prompt ids", "pass", f"{len(GOLDEN_PAIRS)} published prompts, id for id")


def _has_published_ids(tokenizer: Tokenizer, pair: GoldenPair) -> bool:
    builder = PromptBuilder(tokenizer, "transformers")
    ids = builder.build(pair.query, [pair.document], pair.instruction)[0]
    return len(ids) == pair.num_tokens and digest_of_ids(ids) == pair.digest
