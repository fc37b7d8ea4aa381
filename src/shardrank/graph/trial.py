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
# The shortest row that has an even beginning and more behind it.
_MIN_CONTINUED = 4
# Of the largest logit; float16 has 11 bits, and a batch is rounded otherwise than a row.
_TOLERANCE = 2e-3
# The same where a conversion keeps the weights, and the rounding of activations changes: in blocks
# of 32, for the whole batch, for a token, or not at all. Measured up to .05 on random weights; real
# ones have outliers, which one scale for a batch cannot hold. A zero point wrong by one of 16
# levels, or two halves of a byte swapped, make .9 and more.
_CONVERTED_TOLERANCE = 0.5


@dataclass(frozen=True, slots=True)
class Trial:
    """Some rows of random ids, and what the export asks for to score them.

    path: the export. inputs: what it takes; logits: what it calls them; ids: their two columns.
    head_size: for a past whose shape the file leaves open; None if it is not known.
    tolerance: largest difference from the export's own logits, of the largest of them.
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
    tolerance: float

    @staticmethod
    def of(
        graph: EditedGraph, logits: str, origin: Origin, ids: tuple[int, int], *, converted: bool
    ) -> Trial:
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
            tolerance=_CONVERTED_TOLERANCE if converted else _TOLERANCE,
        )

    def compare(self, mended: Path) -> None:
        """Run both graphs, one after the other, so that memory holds one of them.

        Raises ModelError if either cannot be loaded or run, with onnxruntime's reason, or if they
        disagree.
        """
        expected = self._run_export()
        session = _session(mended, self.path)
        found = self._run_mended(session)
        self._refuse_difference(found, expected, self.tolerance, "after mending, its logits")
        if _past(session, 1):
            rows = [place for place, row in enumerate(self.rows) if len(row) >= _MIN_CONTINUED]
            continued = [self._run_continued(session, self.rows[place]) for place in rows]
            self._refuse_difference(
                np.concatenate(continued), found[rows], _TOLERANCE, "behind a prefix, its logits"
            )

    def _refuse_difference(
        self, found: Float32Array, expected: Float32Array, tolerance: float, what: str
    ) -> None:
        scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
        error = float(np.abs(found - expected).max(initial=0.0))
        # Not `>`: NaN is a disagreement too.
        if not error <= tolerance * scale:
            raise ModelError(
                f"{self.path}: {what} differ by {error:.2g} from its own (of up to {scale:.2g}), "
                f"so it is built in a way that is not known here; prepare the checkpoint instead."
            )

    def _run_export(self) -> Float32Array:
        """Each row alone and unpadded, float32 [num_rows, 2]."""
        session = _session(self.path, self.path)
        logits = []
        for row in self.rows:
            found = _run(session, [self.logits], self._feeds(row), self.path)[0]
            logits.append(found.reshape(-1, found.shape[-1])[-1][list(self.ids)])
        return np.stack(logits).astype(np.float32)

    def _run_mended(self, session: onnxruntime.InferenceSession) -> Float32Array:
        batches = [list(self.rows)] if self.together else [[row] for row in self.rows]
        logits = []
        for rows in batches:
            width = max(map(len, rows))
            ids = np.stack([np.pad(row, (width - len(row), 0)) for row in rows])
            mask = np.stack([np.arange(width) >= width - len(row) for row in rows])
            feeds = {IDS: ids, MASK: mask.astype(np.int64), **_past(session, len(rows))}
            logits.append(_run(session, ["logits"], feeds, self.path)[0])
        return np.concatenate(logits).astype(np.float32)

    def _run_continued(
        self, session: onnxruntime.InferenceSession, row: Int64Array
    ) -> Float32Array:
        """A row behind its own first half, float32 [1, 2]; a past has an even length."""
        start = len(row) // 4 * 2
        past = _past(session, 1)
        presents = [name.replace("past_key_values", "present") for name in past]
        head = {IDS: row[None, :start], MASK: np.ones((1, start), np.int64), **past}
        past = dict(zip(past, _run(session, presents, head, self.path), strict=True))
        tail = row[None, start:]
        feeds = {IDS: tail, MASK: np.ones_like(tail), **past}
        logits: Float32Array = _run(session, ["logits"], feeds, self.path)[0]
        return logits

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


def _past(session: onnxruntime.InferenceSession, num_rows: int) -> dict[str, NDArray[Any]]:
    """A past of length 0 for every input that asks for one; the graph is of layout `prefix`."""
    return {
        value.name: np.zeros((num_rows, value.shape[1], 0, value.shape[3]), np.float32)
        for value in session.get_inputs()
        if value.name not in (IDS, MASK)
    }


def _session(path: Path, export: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base
        raise _refusal(export, "loaded", error) from error


def _run(
    session: onnxruntime.InferenceSession,
    outputs: list[str],
    feeds: dict[str, NDArray[Any]],
    export: Path,
) -> list[NDArray[Any]]:
    try:
        found: list[NDArray[Any]] = session.run(outputs, feeds)
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
