"""The checks of a prepared model, from its files to its speed on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from shardrank.check.batches import log_odds
from shardrank.check.padding import check_lengths, check_padding
from shardrank.check.pairs import judged_pairs
from shardrank.check.prefix import check_prefix
from shardrank.check.reference import check_reference, longest_prompt, refuse_useless
from shardrank.check.report import CheckReport
from shardrank.check.result import CheckResult
from shardrank.check.scores import check_golden, check_scores
from shardrank.check.speed import measure_speed
from shardrank.check.tokens import check_prompt_ids, check_tokens
from shardrank.engine.model import PreparedModel, builtin_folder
from shardrank.engine.onnx_session import open_session
from shardrank.engine.scoring import score_prompts
from shardrank.engine.session import Device, Session
from shardrank.engine.tokenizer import Tokenizer
from shardrank.errors import ConfigError, ModelError

# Queries of each of two shards: enough to see that scores are scores, or to compare rankings.
_QUERIES, _QUERIES_TO_COMPARE = 1, 3


def check(
    folder: Path,
    reference: Path | None = None,
    *,
    device: Device = "cpu",
    threads: int | None = None,
) -> CheckReport:
    """Check a prepared model on this machine; a few minutes for 0.6B on two cores.

    reference: what it is compared with: the checkpoint that it was prepared from (needs torch and
        transformers), or another build of it, such as an fp32 one.
    device, threads: as in open_session.

    Raises ModelError if the folder is no prepared model, if its graph or the reference cannot be
    loaded, or if the reference would prove nothing; what is found in a model that loads is a
    result.
    """
    model = PreparedModel.load(folder)
    refuse_useless(model, reference)
    session = open_session(folder, model, device=device, threads=threads)
    results = [check_files(folder, model)]
    try:
        tokenizer = Tokenizer.load(folder)
    except ModelError as error:
        results += [CheckResult("tokens", "fail", str(error)), *check_graph(session, model)]
    else:
        results += [
            check_tokens(tokenizer, model),
            check_prompt_ids(tokenizer, model),
            *check_graph(session, model),
            *check_pairs(session, model, tokenizer, reference),
        ]
    return CheckReport(results, session.description)


def check_files(folder: Path, model: PreparedModel) -> CheckResult:
    """The files are those that were prepared."""
    try:
        model.verify(folder)
    except ModelError as error:
        return CheckResult("files", "fail", str(error))
    return CheckResult("files", "pass", f"sha256 of {', '.join(model.files)} as prepared")


def check_graph(session: Session, model: PreparedModel) -> list[CheckResult]:
    """The checks that ask the graph about random ids."""
    return [
        *_guarded("padding", lambda: check_padding(session, model)),
        *_guarded("prefix reuse", lambda: check_prefix(session, model)),
        *_guarded("lengths", lambda: [check_lengths(session, model)]),
        *_guarded("speed", lambda: [measure_speed(session, model)]),
    ]


def check_pairs(
    session: Session, model: PreparedModel, tokenizer: Tokenizer, reference: Path | None = None
) -> list[CheckResult]:
    """The checks that score real text, alone and beside a reference. Raises ModelError."""
    pairs = judged_pairs(_QUERIES if reference is None else _QUERIES_TO_COMPARE)
    limit = longest_prompt(model, reference)
    try:
        prompts = pairs.prompts(tokenizer, model, limit)
        logits = score_prompts(session, prompts, model.pad_id)
    except ConfigError as error:
        return [CheckResult("scores", "fail", str(error))]
    except Exception as error:  # onnxruntime's errors have no common base
        return [_cannot_run("scores", error)]
    values = log_odds(logits)
    return [
        check_scores(values),
        *_guarded("reference", lambda: [check_reference(model, pairs, prompts, values, reference)]),
        *_guarded("golden", lambda: [check_golden(session, model, tokenizer)]),
    ]


def record(folder: Path, report: CheckReport) -> None:
    """Write the report into reranker.json; the model that is shipped with the package stays.

    A model whose score was seen to move with its batch is marked for good, so that every job says
    so. Raises ModelError if the folder cannot be written.
    """
    if folder.resolve() == builtin_folder().resolve():
        return
    model = PreparedModel.load(folder)
    moves = model.batch_dependent or bool(report.batch_difference)
    try:
        replace(model, batch_dependent=moves, check=report.as_dict()).save(folder)
    except OSError as error:
        raise ModelError(
            f"{folder}: the results cannot be written ({error.strerror}); check a copy of the "
            f"folder that can be written."
        ) from error


def _guarded(name: str, function: Callable[[], list[CheckResult]]) -> list[CheckResult]:
    """The results; a graph that fails while it runs fails its check, and not the others."""
    try:
        return function()
    except (ModelError, ConfigError):
        raise
    except Exception as error:  # onnxruntime's errors have no common base
        return [_cannot_run(name, error)]


def _cannot_run(name: str, error: Exception) -> CheckResult:
    text = " ".join(str(error).split())[:300]
    return CheckResult(name, "fail", f"the graph cannot be run: {text}")
