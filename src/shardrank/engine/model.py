"""A prepared model: a folder with everything that scoring needs, described by `reranker.json`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from shardrank.config import PromptStyle
from shardrank.errors import ModelError

FILE_NAME = "reranker.json"
GRAPH_NAME = "model.onnx"
WEIGHTS_NAME = "model.onnx.data"
TOKENIZER_NAME = "tokenizer.json"
FORMAT_VERSION = 1
MIN_ONNXRUNTIME = "1.30"

_BLOCK_BYTES = 1 << 20
_KINDS: dict[str, type | tuple[type, ...]] = {
    "source": dict,
    "files": dict,
    "architecture": dict,
    "precision": str,
    "layout": str,
    "yes_id": int,
    "no_id": int,
    "pad_id": int,
    "prompt_style": str,
    "instruction": str,
    "max_tokens": int,
    "min_onnxruntime": str,
    "batch_dependent": bool,
    "check": (dict, type(None)),
}


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """What `reranker.json` says about the folder that it lies in.

    source: {"name": base name of the checkpoint, "files": {name: sha256}}; never a machine's path.
    files: sha256 of each file of the folder, by name: model.onnx, tokenizer.json and, for a large
        model, model.onnx.data.
    architecture: model_type, num_layers, hidden_size, num_heads, num_key_value_heads, head_size,
        intermediate_size, vocabulary_size, max_positions, tied_head, rope_theta, norm_epsilon.
    precision, layout: of the graph ("fp32", "padded").
    yes_id, no_id: the tokens whose logits are the two columns of the graph's output.
    pad_id: what fills the unused places of a batch.
    prompt_style, instruction, max_tokens: what a job uses unless it is told otherwise;
        max_tokens is the longest prompt that the graph takes.
    min_onnxruntime: the oldest onnxruntime that loads the graph.
    batch_dependent: True if a prompt's logits move with its neighbours in the batch.
    check: what `shardrank check` found last, or None.
    """

    source: dict[str, Any]
    files: dict[str, str]
    architecture: dict[str, Any]
    precision: str
    layout: str
    yes_id: int
    no_id: int
    pad_id: int
    prompt_style: PromptStyle
    instruction: str
    max_tokens: int
    min_onnxruntime: str = MIN_ONNXRUNTIME
    batch_dependent: bool = False
    check: dict[str, Any] | None = None

    @staticmethod
    def load(folder: Path) -> PreparedModel:
        """Read the description of a prepared model.

        Raises ModelError if the folder is missing, is not a prepared model, was made by a newer
        shardrank, or lacks a file. Contents are not hashed here: that is `verify`.
        """
        model = _parse(_read(folder), folder / FILE_NAME)
        for name in model.files:
            if not (folder / name).is_file():
                raise ModelError(
                    f"{folder}: {name} is listed in {FILE_NAME} and missing; copy the whole "
                    f"folder, or make it again with `shardrank prepare`."
                )
        return model

    def save(self, folder: Path) -> None:
        """Write the description; the same model always gives the same bytes."""
        values = {"format_version": FORMAT_VERSION, **asdict(self)}
        text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        temporary = folder / f".{FILE_NAME}.tmp"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(folder / FILE_NAME)

    def verify(self, folder: Path) -> None:
        """Hash every file again; raises ModelError naming the ones that differ."""
        changed = [
            name for name, digest in self.files.items() if file_sha256(folder / name) != digest
        ]
        if changed:
            raise ModelError(
                f"{folder}: {', '.join(changed)} changed after {FILE_NAME} was written (sha256 "
                f"differs); copy the folder again, or make it again with `shardrank prepare`."
            )

    @property
    def batch_dependence(self) -> dict[str, Any]:
        """Whether a score depends on its batch, and by how much a check saw log-odds move."""
        return {
            "precision": self.precision,
            "batch_dependent": self.batch_dependent,
            "batch_difference": (self.check or {}).get("batch_difference"),
        }

    def with_check(self, check: dict[str, Any]) -> PreparedModel:
        """The same model with what a check found."""
        return replace(self, check=check)


def builtin_folder() -> Path:
    """The prepared model that is shipped with the package."""
    return Path(str(resources.files("shardrank"))) / "demo" / "model"


def file_sha256(path: Path) -> str:
    """Hex digest of a file's content; raises ModelError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    return digest.hexdigest()


def _read(folder: Path) -> object:
    if not folder.is_dir():
        raise ModelError(
            f"{folder} is not a folder; give a prepared model, make one with "
            f"`shardrank prepare SOURCE --output DIR`, or take the built-in one, `demo`."
        )
    path = folder / FILE_NAME
    if not path.is_file():
        raise ModelError(
            f"{folder} holds no {FILE_NAME}, so it is not a prepared model; make one with "
            f"`shardrank prepare SOURCE --output DIR`."
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be read as JSON ({error}); make the model again with "
            f"`shardrank prepare SOURCE --output DIR`."
        ) from error


def _parse(values: object, path: Path) -> PreparedModel:
    if not isinstance(values, dict) or not isinstance(values.get("format_version"), int):
        raise ModelError(
            f"{path} has no format_version, so it was not written by shardrank; make a prepared "
            f"model with `shardrank prepare SOURCE --output DIR`."
        )
    if values["format_version"] > FORMAT_VERSION:
        raise ModelError(
            f"{path} has format_version {values['format_version']} and this shardrank reads up to "
            f"{FORMAT_VERSION}; update shardrank, or prepare the model with this version."
        )
    for name, kind in _KINDS.items():
        if name not in values or not _is_kind(values[name], kind):
            found = repr(values[name]) if name in values else "nothing"
            raise ModelError(
                f"{path}: {found} stands where {name} should be; make the model again with "
                f"`shardrank prepare SOURCE --output DIR`."
            )
    for name in values["files"]:
        # A name that leads out of the folder would make a copied model depend on the machine.
        if Path(name).name != name or name in ("", ".", ".."):
            raise ModelError(f"{path} lists {name!r}; a model's files lie in its own folder.")
    for name in (GRAPH_NAME, TOKENIZER_NAME):
        if name not in values["files"]:
            raise ModelError(
                f"{path} lists no {name}; make the model again with `shardrank prepare`."
            )
    if values["prompt_style"] not in get_args(PromptStyle):
        raise ModelError(
            f"{path}: prompt_style {values['prompt_style']!r} is unknown; this shardrank knows "
            f"{', '.join(get_args(PromptStyle))}."
        )
    return PreparedModel(**{field.name: values[field.name] for field in fields(PreparedModel)})


def _is_kind(value: object, kind: type | tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, kind)
