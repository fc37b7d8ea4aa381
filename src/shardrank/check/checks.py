"""The checks of a prepared model, from its files to its speed on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shardrank.check.batches import (
    largest_difference,
    logits_alone,
    logits_together,
    random_prompts,
    right_pad,
)
from shardrank.check.reference import missing_packages, reference_logits
from shardrank.check.result import CheckResult, judge_difference, render, worst_verdict
from shardrank.engine.model import (
    TOKENIZER_NAME,
    PreparedModel,
    builtin_folder,
    file_sha256,
)
from shardrank.engine.session import Device, Session, open_session
from shardrank.engine.tokenizer import Tokenizer
from shardrank.errors import ModelError
from shardrank.types import Float32Array, Prompts

__all__ = ["CheckResult", "check", "check_session", "record", "render"]

# Of log-odds, whose usual size is 1 to 10. The card's published values hold to 1e-4.
_PADDING_TOLERANCE = 1e-4
_REFERENCE_GOOD = 1e-3
_REFERENCE_TOLERANCE = 1e-2

_SPEED_SHAPE = (4, 128)
_SPEED_RUNS = 3


def check(
    folder: Path,
    reference: Path | None = None,
    *,
    device: Device = "cpu",
    threads: int | None = None,
) -> list[CheckResult]:
    """Check a prepared model on this machine.

    reference: the checkpoint that it was prepared from, to be compared with.
    device, threads: as in open_session.

    Raises ModelError if the folder is no prepared model or its graph cannot be loaded; what is
    found in a model that loads is a result.
    """
    model = PreparedModel.load(folder)
    session = open_session(folder, model, device=device, threads=threads)
    return [
        check_files(folder, model),
        check_tokens(folder, model),
        *check_session(session, model, reference),
    ]


def check_session(
    session: Session, model: PreparedModel, reference: Path | None = None
) -> list[CheckResult]:
    """The checks that ask the graph."""
    prompts = random_prompts(model)
    alone = logits_alone(session, prompts, model.pad_id)
    left = logits_together(session, prompts, model.pad_id)
    right = logits_together(session, prompts, model.pad_id, right_pad)
    return [
        check_finite(alone),
        check_padding("left padding", model, alone, left),
        check_padding("right padding", model, alone, right),
        check_reference(model, prompts, alone, reference),
        measure_speed(session, model),
    ]


def check_files(folder: Path, model: PreparedModel) -> CheckResult:
    """The files are those that were prepared."""
    try:
        model.verify(folder)
    except ModelError as error:
        return CheckResult("files", "fail", str(error))
    return CheckResult("files", "pass", f"sha256 of {', '.join(model.files)} as prepared")


def check_tokens(folder: Path, model: PreparedModel) -> CheckResult:
    """The tokenizer knows the prompt's tokens, and the ids of the answers are its own."""
    try:
        tokenizer = Tokenizer.load(folder)
    except ModelError as error:
        return CheckResult("tokens", "fail", str(error))
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


def check_finite(logits: Float32Array) -> CheckResult:
    """No logit is NaN or infinite."""
    num_bad = int((~np.isfinite(logits)).any(axis=1).sum())
    if num_bad:
        return CheckResult("finite", "fail", f"{num_bad} of {len(logits)} prompts have no number")
    return CheckResult(
        "finite",
        "pass",
        f"{len(logits)} random prompts, logits {logits.min():.3f} to {logits.max():.3f}",
    )


def check_padding(
    name: str, model: PreparedModel, alone: Float32Array, together: Float32Array
) -> CheckResult:
    """A prompt's log-odds are the same alone and among longer neighbours.

    A model that says so of itself may differ; its scores are bound to their batches.
    """
    difference = largest_difference(alone, together)
    detail = f"largest difference of log-odds, alone and in a mixed batch: {difference:.3g}"
    if model.batch_dependent:
        return CheckResult(name, "warn", f"{detail} (scores of this model depend on the batch)")
    return CheckResult(name, judge_difference(difference, 0.0, _PADDING_TOLERANCE), detail)


def check_reference(
    model: PreparedModel, prompts: Prompts, logits: Float32Array, reference: Path | None
) -> CheckResult:
    """The log-odds are those of transformers in fp32."""
    if reference is None:
        return CheckResult("reference", "skip", "no --reference CHECKPOINT was given")
    if missing := missing_packages():
        return CheckResult("reference", "skip", f"not installed: {', '.join(missing)}")
    expected = reference_logits(reference, model, prompts)
    difference = largest_difference(logits, expected)
    verdict = judge_difference(difference, _REFERENCE_GOOD, _REFERENCE_TOLERANCE)
    spread = float((expected[:, 0] - expected[:, 1]).std())
    detail = f"largest difference to transformers fp32: {difference:.3g} (spread {spread:.3g})"
    if verdict != "pass" and (changed := changed_files(model, reference)):
        detail += f"; it was prepared from another {', '.join(changed)}"
    return CheckResult("reference", verdict, detail)


def changed_files(model: PreparedModel, checkpoint: Path) -> list[str]:
    """Files of the checkpoint that are not those that the model was prepared from."""
    return [
        name
        for name, digest in model.source["files"].items()
        if not (checkpoint / name).is_file() or file_sha256(checkpoint / name) != digest
    ]


def measure_speed(session: Session, model: PreparedModel) -> CheckResult:
    """Tokens a second, the best of a few batches without padding."""
    num_prompts, length = _SPEED_SHAPE
    shape = (num_prompts, min(length, model.max_tokens))
    ids = np.random.default_rng(0).integers(0, model.pad_id, shape, dtype=np.int64)
    mask = np.ones_like(ids)
    seconds = []
    for _ in range(_SPEED_RUNS):
        start = time.perf_counter()
        session.run(ids, mask)
        seconds.append(time.perf_counter() - start)
    rate = ids.size / min(seconds)
    where = session.description
    detail = (
        f"{rate:,.0f} tokens/s in batches of {shape[0]} x {shape[1]} (onnxruntime "
        f"{where.onnxruntime_version}, {where.provider}, {where.instruction_set})"
    )
    return CheckResult("speed", "pass", detail)


def record(folder: Path, results: Sequence[CheckResult]) -> None:
    """Write the results into reranker.json; the model that is shipped with the package stays.

    Raises ModelError if the folder cannot be written.
    """
    if folder.resolve() == builtin_folder().resolve():
        return
    found = {
        "verdict": worst_verdict(results),
        "results": [result.as_dict() for result in results],
    }
    try:
        PreparedModel.load(folder).with_check(found).save(folder)
    except OSError as error:
        raise ModelError(
            f"{folder}: the results cannot be written ({error.strerror}); check a copy of the "
            f"folder that can be written."
        ) from error
