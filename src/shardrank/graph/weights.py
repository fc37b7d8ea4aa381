"""Tensors of a Hugging Face checkpoint, read one at a time.

Follows the safetensors format: 8 bytes with the header's length (little-endian), a JSON header
{name: {dtype, shape, data_offsets}}, then the tensors. Read here rather than through the
safetensors package because only the rows asked for should be in memory, bfloat16 included, and a
broken file must be told with the tensor's name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from shardrank.errors import ModelError
from shardrank.types import Float32Array

_SINGLE_FILE = "model.safetensors"
_INDEX_FILE = "model.safetensors.index.json"
_LENGTH_BYTES = 8
# A tied head stored a second time, and the rotary frequencies that old exporters add.
_DERIVED_TENSORS = ("lm_head.weight", "rotary_emb.inv_freq")
_MAX_HEADER_BYTES = 100_000_000
_BLOCK_VALUES = 8 << 20
_DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies: `offset` bytes into `path`, row-major, `shape` values of `dtype`."""

    path: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class Checkpoint:
    """The configuration and the tensors of a checkpoint folder.

    folder: holds config.json and either model.safetensors or model.safetensors.index.json with
        the files that it names.
    config: config.json as it stands.
    files: names of the files that were read, in order, for the record of the source.

    Names are without the prefix "model.", which some exporters leave out; `lm_head.weight` keeps
    its name. Raises ModelError, naming the file and the tensor, if anything is missing, truncated
    or of a kind that is not float32, float16 or bfloat16.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ModelError(
                f"{folder} is not a folder; give the folder of a checkpoint, with config.json and "
                f"*.safetensors."
            )
        self.folder = folder
        self.config = read_json(folder / "config.json")
        self.files = ["config.json"]
        self._tensors: dict[str, StoredTensor] = {}
        for name in self._weight_files():
            self._add_file(folder / name)

    @property
    def names(self) -> list[str]:
        """All tensors' names, sorted."""
        return sorted(self._tensors)

    def require(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise ModelError unless exactly these tensors are here, in these shapes.

        A tensor that nothing would read (a bias, an adapter, a classification head) is an error
        too: the scores would be another model's. Copies that follow from the rest may be here.
        """
        for name, shape in shapes.items():
            found = self._find(name)
            if found.shape != shape:
                raise ModelError(
                    f"{found.path}: {name} has shape {list(found.shape)} where config.json asks "
                    f"for {list(shape)}; config.json and weights are of two checkpoints."
                )
        for name in self.names:
            if name not in shapes and not name.endswith(_DERIVED_TENSORS):
                raise ModelError(
                    f"{self._tensors[name].path} holds {name}, which the graph does not compute "
                    f"with; give a plain Qwen3ForCausalLM checkpoint."
                )

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._find(name).shape

    def dtype(self, name: str) -> np.dtype[Any]:
        """The type that a tensor is stored in."""
        return self._find(name).dtype

    def read(self, name: str) -> Float32Array:
        """A whole tensor as float32 [*shape]."""
        stored = self._find(name)
        return self._read_values(name, 0, math.prod(stored.shape)).reshape(stored.shape)

    def read_rows(self, name: str, start: int, stop: int) -> Float32Array:
        """Rows start to stop of a matrix as float32 [stop - start, columns]."""
        columns = self._find(name).shape[1]
        return self._read_values(name, start * columns, stop * columns).reshape(-1, columns)

    def blocks(self, name: str) -> Iterator[Float32Array]:
        """A matrix in order, some rows at a time, so that a large table is never held whole."""
        num_rows, columns = self._find(name).shape
        step = max(1, _BLOCK_VALUES // columns)
        for start in range(0, num_rows, step):
            yield self.read_rows(name, start, min(start + step, num_rows))

    def _weight_files(self) -> list[str]:
        if (self.folder / _SINGLE_FILE).is_file():
            return [_SINGLE_FILE]
        if not (self.folder / _INDEX_FILE).is_file():
            raise ModelError(
                f"{self.folder} holds neither {_SINGLE_FILE} nor {_INDEX_FILE}; give the folder of "
                f"a complete checkpoint in the safetensors format."
            )
        weight_map = read_json(self.folder / _INDEX_FILE).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ModelError(f"{self.folder / _INDEX_FILE} has no weight_map; download it again.")
        self.files.append(_INDEX_FILE)
        names = sorted({str(name) for name in weight_map.values()})
        for name in names:
            if Path(name).name != name:
                raise ModelError(
                    f"{self.folder / _INDEX_FILE} names {name!r}, which lies outside the folder; "
                    f"put all of the checkpoint's files into one folder."
                )
        return names

    def _add_file(self, path: Path) -> None:
        self.files.append(path.name)
        for name, stored in read_header(path).items():
            short = name.removeprefix("model.")
            if short in self._tensors:
                raise ModelError(
                    f"{path} holds {name}, which {self._tensors[short].path.name} holds as well; "
                    f"download the checkpoint again."
                )
            self._tensors[short] = stored

    def _find(self, name: str) -> StoredTensor:
        if name not in self._tensors:
            raise ModelError(
                f"{self.folder} holds no tensor {name} (read {', '.join(self.files[1:])}); the "
                f"checkpoint is incomplete or of another architecture."
            )
        return self._tensors[name]

    def _read_values(self, name: str, start: int, stop: int) -> Float32Array:
        stored = self._find(name)
        offset = stored.offset + start * stored.dtype.itemsize
        try:
            values = np.fromfile(stored.path, stored.dtype, stop - start, offset=offset)
        except OSError as error:
            raise ModelError(f"{stored.path}: {name} cannot be read: {error}.") from error
        if len(values) != stop - start:
            raise ModelError(f"{stored.path} ends within {name}; download the file again.")
        values = values.astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            raise ModelError(
                f"{stored.path}: {name} holds NaN or infinity, which every score would become; "
                f"download the file again, or train the checkpoint again."
            )
        return values


def cast_weights(values: Float32Array, dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    """The values in another floating-point type.

    Raises ModelError naming the tensor where a value is too large for it, as in float16.
    """
    if dtype == np.float32:
        return values
    with np.errstate(over="ignore"):
        cast = values.astype(dtype)
    if not np.isfinite(cast).all():
        raise ModelError(
            f"{name} holds values up to {np.abs(values).max():.3g}, too large for {dtype}; prepare "
            f"the model with --precision bf16."
        )
    return cast


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; raises ModelError if it is missing or is something else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{path.parent} holds no {path.name}; give a complete checkpoint."
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} holds a {type(values).__name__} where an object should be.")
    return values


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Where each tensor of a safetensors file lies, checked against the file's size."""
    try:
        file_bytes = path.stat().st_size
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if header_bytes > min(file_bytes - _LENGTH_BYTES, _MAX_HEADER_BYTES):
                raise ModelError(f"{path} ends within its header; download the file again.")
            header = json.loads(file.read(header_bytes))
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing; download the checkpoint again.") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is not a safetensors file: {error}.") from error
    if not isinstance(header, dict):
        raise ModelError(f"{path} is not a safetensors file: its header is not an object.")
    header.pop("__metadata__", None)
    data_start = _LENGTH_BYTES + header_bytes
    return {
        name: _parse_entry(path, name, entry, data_start, file_bytes)
        for name, entry in header.items()
    }


def _parse_entry(
    path: Path, name: str, entry: dict[str, Any], data_start: int, file_bytes: int
) -> StoredTensor:
    try:
        kind, shape = str(entry["dtype"]), tuple(int(size) for size in entry["shape"])
        start, stop = (int(offset) for offset in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: the header's entry for {name} is broken ({error!r}).") from error
    if kind not in _DTYPES:
        raise ModelError(
            f"{path}: {name} is stored as {kind}; give the checkpoint in BF16, F16 or F32 rather "
            f"than a quantized one."
        )
    stored = StoredTensor(path, data_start + start, _DTYPES[kind], shape)
    if min(shape, default=1) < 0 or stop - start != math.prod(shape) * stored.dtype.itemsize:
        raise ModelError(f"{path}: {name} of shape {list(shape)} has {stop - start} bytes.")
    if start < 0 or data_start + stop > file_bytes:
        raise ModelError(
            f"{path} is truncated: {name} ends at byte {data_start + stop} of {file_bytes}; "
            f"download the file again."
        )
    return stored
