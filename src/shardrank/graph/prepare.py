"""From a checkpoint or an ONNX export to a prepared model, whole or not at all."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from shardrank.config import PromptStyle
from shardrank.engine.layouts import LAYOUTS
from shardrank.engine.model import (
    GRAPH_NAME,
    TOKENIZER_NAME,
    WEIGHTS_NAME,
    PreparedModel,
    file_sha256,
)
from shardrank.engine.prompt import DEFAULT_INSTRUCTION
from shardrank.errors import ModelError
from shardrank.graph.adapt import EXPORT_LAYOUTS, adapt, find_export
from shardrank.graph.answers import find_answer_ids
from shardrank.graph.architecture import parse_architecture
from shardrank.graph.conversion import AS_IS
from shardrank.graph.layouts import choose_layout, make_layout, min_onnxruntime
from shardrank.graph.offset import OffsetFinder, add_offset
from shardrank.graph.precision import (
    PRECISIONS,
    activation_type,
    choose_block_size,
    is_batch_dependent,
    make_linear,
)
from shardrank.graph.product_group import product_groups
from shardrank.graph.qwen3 import Qwen3Graph
from shardrank.graph.spared import spared_products
from shardrank.graph.text_sample import TextSample
from shardrank.graph.tuning import NO_TUNING, Tuner, TuningRequest
from shardrank.graph.weights import Checkpoint
from shardrank.graph.writer import GraphWriter

# The fastest on a CPU, and a score depends on nothing but its own prompt.
DEFAULT_PRECISION = "w8a8"

# What the model card recommends; the model itself would take more.
_DEFAULT_MAX_TOKENS = 8192
_MAX_SINGLE_FILE_BYTES = 100_000_000

Progress = Callable[[str], None]


def prepare(
    source: Path,
    output: Path,
    *,
    precision: str | None = None,
    block_size: int | None = None,
    layout: str | None = None,
    prompt_style: PromptStyle = "transformers",
    max_tokens: int | None = None,
    tuning: TuningRequest = NO_TUNING,
    progress: Progress | None = None,
) -> PreparedModel:
    """Make a prepared model in `output`, which must be empty or not there yet.

    source: a checkpoint folder with config.json, *.safetensors and tokenizer.json, or an ONNX
        export (graph.adapt): an .onnx file, or a folder with one.
    precision: None for "w8a8" of a checkpoint and "as-is" of an export, whose weights are kept;
        another one converts them (graph.conversion).
    layout: None for the fastest of a checkpoint (graph.layouts), and "padded" of an export.
    block_size: inputs that share a scale in int8 and int4; None for 32. Above 32 a prompt's logits
        move with its neighbours in the batch, and reranker.json says so.
    max_tokens: the longest prompt; None for 8192, or less where the model takes less.
    tuning: what w8a8 learns from a sample of text: smoothing, and products that stay finer.
    progress: is told in a few words what is done next.

    Everything is written beside `output` and renamed at the end. Raises ModelError if the source
    cannot be honoured to the letter, or the output cannot be written.
    """
    export = find_export(source)
    available = PRECISIONS if export is None else (AS_IS, *PRECISIONS)
    chosen = precision or (DEFAULT_PRECISION if export is None else AS_IS)
    _refuse_unknown("precision", chosen, available)
    block_size = choose_block_size(chosen, block_size)
    tuning.require(chosen if export is None else AS_IS)
    if layout is not None:
        _refuse_unknown("layout", layout, LAYOUTS if export is None else EXPORT_LAYOUTS)
    _refuse_unknown("prompt style", prompt_style, get_args(PromptStyle))
    _refuse_used_folder(output)
    tell = progress or _silent
    temporary = output.parent / f".{output.name}.{secrets.token_hex(4)}.tmp"
    try:
        if export is None:
            model = _prepare_checkpoint(
                source,
                temporary,
                chosen,
                block_size,
                layout,
                prompt_style,
                max_tokens,
                tuning,
                tell,
            )
        else:
            model = _prepare_export(
                export, temporary, chosen, layout or "padded", prompt_style, max_tokens, tell
            )
        model.save(temporary)
        temporary.replace(output)
    except OSError as error:
        raise ModelError(
            f"{output} cannot be written: {error.strerror or error}; nothing was left there, so "
            f"make room or choose another folder and run `shardrank prepare` again."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return model


def _prepare_checkpoint(
    source: Path,
    folder: Path,
    precision: str,
    block_size: int | None,
    asked_layout: str | None,
    prompt_style: PromptStyle,
    max_tokens: int | None,
    tuning: TuningRequest,
    tell: Progress,
) -> PreparedModel:
    tell("reading the checkpoint")
    checkpoint = Checkpoint(source)
    architecture = parse_architecture(checkpoint.config)
    layout = choose_layout(asked_layout, precision, architecture)
    answers = find_answer_ids(source / TOKENIZER_NAME, architecture.vocabulary_size)
    limit = choose_max_tokens(max_tokens, architecture.max_positions)
    folder.mkdir(parents=True)
    tuned = Tuner(
        checkpoint, architecture, answers, prompt_style, limit, folder / "rehearsal", tell
    ).tune(tuning)
    tell(f"writing the graph and {architecture.num_parameters:,} weights")
    # A protobuf file ends at 2 GB, and a large one is read slowly.
    external = architecture.num_parameters * 4 > _MAX_SINGLE_FILE_BYTES
    dtype = activation_type(precision)
    kept = tuned.kept | spared_products(product_groups(architecture))
    with GraphWriter(folder, external=external) as writer:
        made = make_layout(layout, writer, architecture, dtype)
        Qwen3Graph(
            writer=writer,
            checkpoint=tuned.checkpoint,
            architecture=architecture,
            layout=made,
            linear=make_linear(
                precision,
                block_size,
                writer,
                tuned.checkpoint,
                kept,
                is_fused=made.operators == "cpu",
            ),
            dtype=dtype,
            yes_id=answers.yes,
            no_id=answers.no,
            max_tokens=limit,
        ).build()
    shutil.copyfile(source / TOKENIZER_NAME, folder / TOKENIZER_NAME)
    offset = None
    if precision == "w8a8":
        tell("comparing the logits of a sample with the checkpoint's")
        finder = OffsetFinder(checkpoint, architecture, answers, prompt_style, limit)
        offset = finder.find(folder, layout, TextSample.load(tuning.sample))
    if offset is not None:
        add_offset(folder, offset)
    tell("hashing the files")
    return PreparedModel(
        source={
            "name": source.resolve().name,
            "files": _hashes(source, [*checkpoint.files, TOKENIZER_NAME]),
            **({"tuning": tuned.record} if tuned.record else {}),
            **({"offset": offset.tolist()} if offset is not None else {}),
        },
        files=_hashes(folder, [GRAPH_NAME, WEIGHTS_NAME, TOKENIZER_NAME]),
        architecture=architecture.as_dict(),
        precision=precision,
        layout=layout,
        yes_id=answers.yes,
        no_id=answers.no,
        pad_id=answers.pad,
        prompt_style=prompt_style,
        instruction=DEFAULT_INSTRUCTION,
        max_tokens=limit,
        min_onnxruntime=min_onnxruntime(layout),
        batch_dependent=is_batch_dependent(precision, block_size),
    )


def _prepare_export(
    path: Path,
    folder: Path,
    precision: str,
    layout: str,
    prompt_style: PromptStyle,
    max_tokens: int | None,
    tell: Progress,
) -> PreparedModel:
    folder.mkdir(parents=True)
    tell(f"mending {path.name} and running it beside the original")
    adapted = adapt(path, folder, precision=precision, layout=layout)
    origin = adapted.origin
    limit = choose_max_tokens(max_tokens, origin.max_positions, "the export has positions")
    tell("hashing the files")
    return PreparedModel(
        source={
            "name": path.name,
            "files": {file.name: file_sha256(file) for file in adapted.source},
        },
        files=_hashes(folder, [GRAPH_NAME, WEIGHTS_NAME, TOKENIZER_NAME]),
        architecture=origin.architecture,
        precision=origin.precision,
        layout=layout,
        yes_id=adapted.answers.yes,
        no_id=adapted.answers.no,
        pad_id=adapted.answers.pad,
        prompt_style=prompt_style,
        instruction=DEFAULT_INSTRUCTION,
        max_tokens=limit,
        batch_dependent=origin.batch_dependent,
    )


def choose_max_tokens(
    asked: int | None,
    max_positions: int,
    said_by: str = "config.json has max_position_embeddings",
) -> int:
    """The longest prompt: as asked, else what the card recommends and the model takes."""
    if asked is None:
        return min(_DEFAULT_MAX_TOKENS, max_positions)
    if not 1 <= asked <= max_positions:
        raise ModelError(
            f"max_tokens = {asked} was asked for and {said_by} = {max_positions}; choose a number "
            f"from 1 to {max_positions}."
        )
    return asked


def _hashes(folder: Path, names: list[str]) -> dict[str, str]:
    return {name: file_sha256(folder / name) for name in names if (folder / name).is_file()}


def _refuse_unknown(what: str, asked: str, available: tuple[str, ...]) -> None:
    if asked not in available:
        raise ModelError(
            f"{what} {asked!r} is not available in this version; there is {', '.join(available)}."
        )


def _refuse_used_folder(output: Path) -> None:
    if output.is_dir() and not any(output.iterdir()):
        return
    if output.exists() or output.is_symlink():
        raise ModelError(
            f"{output} is there already and is not an empty folder; delete it, or choose another "
            f"folder for --output."
        )


def _silent(_: str) -> None:
    return None
