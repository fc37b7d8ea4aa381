"""From a checkpoint folder to a prepared model, whole or not at all."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import tokenizers

from shardrank.config import PromptStyle
from shardrank.engine.model import (
    GRAPH_NAME,
    TOKENIZER_NAME,
    WEIGHTS_NAME,
    PreparedModel,
    file_sha256,
)
from shardrank.engine.prompt import DEFAULT_INSTRUCTION
from shardrank.engine.tokenizer import Tokenizer
from shardrank.errors import ModelError
from shardrank.graph.architecture import Architecture, parse_architecture
from shardrank.graph.linear import Float32Linear
from shardrank.graph.qwen3 import Qwen3Graph
from shardrank.graph.weights import Checkpoint
from shardrank.graph.writer import GraphWriter

PRECISIONS = ("fp32",)
LAYOUTS = ("padded",)

# What the model card recommends; the model itself would take more.
_DEFAULT_MAX_TOKENS = 8192
_MAX_SINGLE_FILE_BYTES = 100_000_000

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class AnswerIds:
    """Ids of the two answers, and of what fills a batch."""

    yes: int
    no: int
    pad: int


def prepare(
    source: Path,
    output: Path,
    *,
    precision: str = "fp32",
    layout: str = "padded",
    prompt_style: PromptStyle = "transformers",
    max_tokens: int | None = None,
    progress: Progress | None = None,
) -> PreparedModel:
    """Make a prepared model in `output`, which must be empty or not there yet.

    source: a checkpoint folder with config.json, *.safetensors and tokenizer.json.
    max_tokens: the longest prompt; None for 8192, or less where the model takes less.
    progress: is told in a few words what is done next.

    Everything is written beside `output` and renamed at the end. Raises ModelError if the
    checkpoint cannot be honoured to the letter, or the output cannot be written.
    """
    _refuse_unknown("precision", precision, PRECISIONS)
    _refuse_unknown("layout", layout, LAYOUTS)
    _refuse_unknown("prompt style", prompt_style, get_args(PromptStyle))
    _refuse_used_folder(output)
    tell = progress or _silent
    tell("reading the checkpoint")
    checkpoint = Checkpoint(source)
    architecture = parse_architecture(checkpoint.config)
    answers = find_answer_ids(source / TOKENIZER_NAME, architecture.vocabulary_size)
    limit = choose_max_tokens(max_tokens, architecture.max_positions)
    temporary = output.parent / f".{output.name}.{secrets.token_hex(4)}.tmp"
    try:
        temporary.mkdir(parents=True)
        tell(f"writing the graph and {architecture.num_parameters:,} weights")
        _write_graph(temporary, checkpoint, architecture, answers, limit)
        shutil.copyfile(source / TOKENIZER_NAME, temporary / TOKENIZER_NAME)
        tell("hashing the files")
        model = PreparedModel(
            source={
                "name": source.resolve().name,
                "files": _hashes(source, [*checkpoint.files, TOKENIZER_NAME]),
            },
            files=_hashes(temporary, [GRAPH_NAME, WEIGHTS_NAME, TOKENIZER_NAME]),
            architecture=architecture.as_dict(),
            precision=precision,
            layout=layout,
            yes_id=answers.yes,
            no_id=answers.no,
            pad_id=answers.pad,
            prompt_style=prompt_style,
            instruction=DEFAULT_INSTRUCTION,
            max_tokens=limit,
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


def find_answer_ids(path: Path, vocabulary_size: int) -> AnswerIds:
    """Ids of yes, no and the padding token in a tokenizer.json.

    vocabulary_size: rows of the model's embedding. Raises ModelError if the file is missing or is
    no tokenizer of a Qwen3 reranker, or if it can give an id that the embedding does not have.
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
            f"{path} gives ids up to {largest_id} and config.json has vocab_size = "
            f"{vocabulary_size}; take the tokenizer.json of the same checkpoint."
        )
    return AnswerIds(*ids)


def choose_max_tokens(asked: int | None, max_positions: int) -> int:
    """The longest prompt: as asked, else what the card recommends and the model takes."""
    if asked is None:
        return min(_DEFAULT_MAX_TOKENS, max_positions)
    if not 1 <= asked <= max_positions:
        raise ModelError(
            f"max_tokens = {asked} was asked for and config.json has max_position_embeddings = "
            f"{max_positions}; choose a number from 1 to {max_positions}."
        )
    return asked


def _write_graph(
    folder: Path,
    checkpoint: Checkpoint,
    architecture: Architecture,
    answers: AnswerIds,
    max_tokens: int,
) -> None:
    num_bytes = architecture.num_parameters * 4
    with GraphWriter(folder, external=num_bytes > _MAX_SINGLE_FILE_BYTES) as writer:
        Qwen3Graph(
            writer=writer,
            checkpoint=checkpoint,
            architecture=architecture,
            linear=Float32Linear(writer, checkpoint),
            yes_id=answers.yes,
            no_id=answers.no,
            max_tokens=max_tokens,
        ).build()


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
