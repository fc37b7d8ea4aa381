"""A mended export is run beside the export itself before it counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper

from shardrank.errors import ModelError
from shardrank.graph.cache import NUM_LOGITS, POSITIONS, is_past
from shardrank.graph.edited import EditedGraph
from shardrank.graph.origin import Origin
from shardrank.graph.rows import IDS, MASK
from shardrank.types import Float32Array, Int64Array

_LENGTHS = (4, 9, 1, 14)
# Of the largest logit; float16 has 11 bits, and a batch is rounded otherwise than a row.
_TOLERANCE = 2e-3


@dataclass(frozen=True, slots=True)
class Trial:
    """Some rows of random ids, and what the export asks for to score them.

    path: the export. inputs: what it takes; logits: what it calls them; ids: their two columns.
    head_size: for a past whose shape the file leaves open; None if it is not known.
    together: score the mended rows as one batch padded on the left; else each as a batch of its
        own, since dynamic quantization gives a batch other numbers than its rows.
    """

    path: Path
    inputs: tuple[onnx.ValueInfoProto, ...]
    logits: str
    ids: tuple[int, int]
    head_size: int | None
    rows: tuple[Int64Array, ...]
    together: bool

    @staticmethod
    def of(graph: EditedGraph, logits: str, origin: Origin, ids: tuple[int, int]) -> Trial:
        """Note down what the export asks for, before it is mended."""
        random = np.random.default_rng(0)
        vocabulary_size = origin.architecture["vocabulary_size"]
        return Trial(
            path=graph.export.path,
            inputs=tuple(_copy(value) for value in graph.inputs),
            logits=logits,
            ids=ids,
            head_size=origin.architecture.get("head_size"),
            rows=tuple(
                random.integers(0, vocabulary_size, min(length, origin.max_positions))
                for length in _LENGTHS
            ),
            together=not origin.dynamic,
        )

    def compare(self, mended: Path) -> None:
        """Run both graphs, one after the other, so that memory holds one of them.

        Raises ModelError if either cannot be loaded or run, with onnxruntime's reason, or if they
        disagree.
        """
        expected = self._run_export()
        found = self._run_mended(mended)
        scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
        error = float(np.abs(found - expected).max(initial=0.0))
        # Not `>`: NaN is a disagreement too.
        if not error <= _TOLERANCE * scale:
            raise ModelError(
                f"{self.path}: after mending, its logits differ by {error:.2g} from its own (of up "
                f"to {scale:.2g}), so it is built in a way that is not known here; prepare the "
                f"checkpoint instead."
            )

    def _run_export(self) -> Float32Array:
        """Each row alone and unpadded, float32 [num_rows, 2]."""
        session = _session(self.path, self.path)
        logits = []
        for row in self.rows:
            found = _run(session, self.logits, self._feeds(row), self.path)
            logits.append(found.reshape(-1, found.shape[-1])[-1][list(self.ids)])
        return np.stack(logits).astype(np.float32)

    def _run_mended(self, mended: Path) -> Float32Array:
        session = _session(mended, self.path)
        batches = [list(self.rows)] if self.together else [[row] for row in self.rows]
        logits = []
        for rows in batches:
            width = max(map(len, rows))
            ids = np.stack([np.pad(row, (width - len(row), 0)) for row in rows])
            mask = np.stack([np.arange(width) >= width - len(row) for row in rows])
            feeds = {IDS: ids, MASK: mask.astype(np.int64)}
            logits.append(_run(session, "logits", feeds, self.path))
        return np.concatenate(logits).astype(np.float32)

    def _feeds(self, row: Int64Array) -> dict[str, NDArray[Any]]:
        """What the export asks for, for one row."""
        values: dict[str, NDArray[Any]] = {
            IDS: row[None],
            MASK: np.ones((1, len(row)), np.int64),
            POSITIONS: np.arange(len(row))[None],
        }
        feeds = {}
        for value in self.inputs:
            kind = value.type.tensor_type
            dims = kind.shape.dim
            dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
            if is_past(value):
                size = dims[3].dim_value or self.head_size or 0
                feeds[value.name] = np.zeros((1, dims[1].dim_value, 0, size), dtype)
            elif value.name in NUM_LOGITS:
                feeds[value.name] = np.zeros([1] * len(dims), dtype)
            elif value.name in values:
                feeds[value.name] = values[value.name].astype(dtype)
        return feeds


def _session(path: Path, export: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base
        raise _refusal(export, "loaded", error) from error


def _run(
    session: onnxruntime.InferenceSession, output: str, feeds: dict[str, NDArray[Any]], export: Path
) -> NDArray[Any]:
    try:
        found: NDArray[Any] = session.run([output], feeds)[0]
    except Exception as error:  # as above
        raise _refusal(export, "run", error) from error
    return found


def _refusal(export: Path, what: str, error: Exception) -> ModelError:
    return ModelError(
        f"{export} cannot be {what} by onnxruntime {onnxruntime.__version__} on a CPU: "
        f"{str(error).strip()}; give another export, or prepare the checkpoint."
    )


def _copy(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    made = onnx.ValueInfoProto()
    made.CopyFrom(value)
    return made
