"""What another computation says of the same prompts: transformers, or another prepared model."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from shardrank.check.agreement import compare, judge
from shardrank.check.pairs import JudgedPairs
from shardrank.check.result import CheckResult
from shardrank.engine.model import FILE_NAME, TOKENIZER_NAME, PreparedModel, file_sha256
from shardrank.engine.onnx_session import open_session
from shardrank.engine.scoring import score_prompts
from shardrank.errors import ModelError
from shardrank.types import Float32Array, Float64Array, Prompts

_OPPOSITE = -0.8


def check_reference(
    model: PreparedModel,
    pairs: JudgedPairs,
    prompts: Prompts,
    values: Float64Array,
    reference: Path | None,
) -> CheckResult:
    """The log-odds are those of the reference, as nearly as the precision allows.

    values: the model's own, float64 [num_pairs]. reference: a checkpoint, or a prepared model.

    Raises ModelError if the reference cannot be used.
    """
    if reference is None:
        return CheckResult(
            "reference", "skip", "give --reference a checkpoint or an fp32 build to compare with"
        )
    is_prepared = (reference / FILE_NAME).is_file()
    if not is_prepared and (missing := missing_packages()):
        return CheckResult(
            "reference",
            "fail",
            f"not installed: {', '.join(missing)}; an fp32 build needs neither: give --reference "
            f"what `shardrank prepare --precision fp32` makes",
        )
    if is_prepared:
        name, logits = "the prepared reference", prepared_logits(reference, prompts)
    else:
        name, logits = "transformers fp32", reference_logits(reference, model, prompts)
    expected = logits[:, 0].astype(np.float64) - logits[:, 1]
    agreement = compare(pairs, values, expected)
    verdict = judge(agreement, model.precision)
    detail = f"{len(pairs)} pairs against {name}: {agreement.describe()}"
    if verdict != "pass" and agreement.kendall_tau < _OPPOSITE:
        detail += "; the order is the opposite one: yes and no are swapped"
    if verdict != "pass" and not is_prepared and (changed := changed_files(model, reference)):
        detail += f"; it was prepared from another {', '.join(changed)}"
    return CheckResult("reference", verdict, detail, agreement.figures())


def longest_prompt(model: PreparedModel, reference: Path | None) -> int:
    """Tokens of a prompt that both the model and its reference take."""
    if reference is None or not (reference / FILE_NAME).is_file():
        return model.max_tokens
    return min(model.max_tokens, PreparedModel.load(reference).max_tokens)


def refuse_useless(model: PreparedModel, reference: Path | None) -> None:
    """Raise ModelError for a reference that could say nothing, before minutes are spent."""
    if reference is None:
        return
    if not (reference / FILE_NAME).is_file():
        if not (reference / "config.json").is_file():
            raise ModelError(
                f"{reference} holds neither {FILE_NAME} nor config.json; give --reference the "
                f"checkpoint that the model was prepared from, or an fp32 build of it."
            )
        return
    other = PreparedModel.load(reference)
    if other.files[TOKENIZER_NAME] != model.files[TOKENIZER_NAME]:
        raise ModelError(
            f"{reference} has another {TOKENIZER_NAME} than the model; give --reference a build of "
            f"the same checkpoint."
        )
    if other.files == model.files:
        raise ModelError(
            f"{reference} holds the very graph that is checked, which would prove nothing; give "
            f"--reference the checkpoint, or an fp32 build of it."
        )


def prepared_logits(folder: Path, prompts: Prompts) -> Float32Array:
    """Logits (yes, no) of another prepared model on the CPU, float32 [num_prompts, 2].

    Raises ModelError if it cannot be loaded.
    """
    model = PreparedModel.load(folder)
    session = open_session(folder, model)
    return score_prompts(session, prompts, model.pad_id)


def missing_packages() -> list[str]:
    """Packages that a comparison with a checkpoint needs and that are not installed."""
    return [name for name in ("torch", "transformers") if find_spec(name) is None]


def reference_logits(checkpoint: Path, model: PreparedModel, prompts: Prompts) -> Float32Array:
    """Logits (yes, no) by transformers in fp32, prompt by prompt, float32 [num_prompts, 2].

    Needs torch and transformers. Raises ModelError if the checkpoint cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        decoder = AutoModelForCausalLM.from_pretrained(checkpoint, local_files_only=True)
    except Exception as error:  # transformers' errors have no common base
        raise ModelError(
            f"{checkpoint} cannot be loaded by transformers ({error}); give --reference the "
            f"checkpoint that the model was prepared from."
        ) from error
    decoder = decoder.float().eval()
    answers = [model.yes_id, model.no_id]
    rows = []
    with torch.inference_mode():
        for index in range(len(prompts)):
            ids = torch.tensor(prompts[index].astype(np.int64))[None]
            rows.append(decoder(ids, logits_to_keep=1).logits[0, -1, answers].numpy())
    return np.stack(rows)


def changed_files(model: PreparedModel, checkpoint: Path) -> list[str]:
    """Files of the checkpoint that are not those that the model was prepared from."""
    return [
        name
        for name, digest in model.source.get("files", {}).items()
        if not (checkpoint / name).is_file() or file_sha256(checkpoint / name) != digest
    ]
