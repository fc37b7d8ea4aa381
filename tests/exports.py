"""The committed exports, what they themselves say, and small ones made by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from graph_models import pad
from shardrank.engine.cpu_session import CpuSession
from shardrank.engine.model import PreparedModel
from shardrank.engine.onnx_session import open_session
from shardrank.graph.prepare import prepare

EXPORTS = Path(__file__).parent / "graph" / "exports"
MANIFEST = json.loads((EXPORTS / "manifest.json").read_text(encoding="utf-8"))
YES, NO, PAD = (MANIFEST["checkpoint"][name] for name in ("yes", "no", "pad"))
PROMPTS = [np.array(ids, np.int64) for ids in MANIFEST["token_ids"]]
DYNAMIC = ("genai_quantized", "optimum_quantized")
# The one that onnxruntime's CPU cannot run is a refusal.
USABLE = tuple(name for name in sorted(MANIFEST["exports"]) if name != "genai_int4_webgpu")
STEADY = tuple(name for name in USABLE if name not in DYNAMIC)


def copy_export(name: str, folder: Path) -> Path:
    """An export as a user has it, with its tokenizer beside it; returns the .onnx file."""
    shutil.copytree(EXPORTS / name, folder)
    shutil.copy(EXPORTS / "checkpoint" / "tokenizer.json", folder)
    return folder / "model.onnx"


class Original:
    """An export as it comes, run with the feeds that it wants."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

    def logits(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """All logits, float32 [num_rows, sequence, vocabulary]."""
        given = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": np.where(mask == 1, mask.cumsum(1) - 1, 1),
            "num_logits_to_keep": np.array(0, np.int64),
        }
        feeds = {}
        for value in self.session.get_inputs():
            dtype = np.float16 if value.type == "tensor(float16)" else np.float32
            empty = np.zeros((len(ids), 2, 0, 32), dtype)
            feeds[value.name] = given.get(value.name, empty)
        return self.session.run(["logits"], feeds)[0].astype(np.float32)

    def alone(self, prompts: Sequence[np.ndarray]) -> np.ndarray:
        """Logits of yes and no, each prompt alone and unpadded, float32 [num_prompts, 2]."""
        rows = [self.logits(ids[None], np.ones((1, len(ids)), np.int64)) for ids in prompts]
        return np.stack([row[0, -1, [YES, NO]] for row in rows])

    def left_padded(self, prompts: Sequence[np.ndarray]) -> np.ndarray:
        """The same of one batch, padded on the left."""
        return self.logits(*pad(prompts, PAD))[:, -1, [YES, NO]]


@dataclass(frozen=True)
class Adapted:
    """A prepared export beside the export itself."""

    name: str
    folder: Path
    model: PreparedModel
    session: CpuSession
    original: Original

    def batch(self, prompts: Sequence[np.ndarray], side: str = "left", extra: int = 0) -> Any:
        """float32 [num_prompts, 2], scored as one batch."""
        return self.session.run(*pad(prompts, PAD, side, extra))

    def alone(self, prompts: Sequence[np.ndarray]) -> Any:
        """The same, each prompt a batch of its own."""
        return np.concatenate([self.batch([prompt]) for prompt in prompts])

    def continued(self, prompt: np.ndarray, start: int) -> Any:
        """The same of one prompt, its first `start` tokens as a past; layout `prefix`."""
        past = self.session.extend(prompt[None, :start])
        return self.session.run(*pad([prompt[start:]], PAD), past)


def adapt_export(
    name: str, root: Path, precision: str | None = None, layout: str | None = None
) -> Adapted:
    """Prepare a committed export."""
    path = copy_export(name, root / name)
    return adapt_file(path, root / f"{name}.model", name, precision, layout)


def adapt_file(
    path: Path,
    folder: Path,
    name: str = "",
    precision: str | None = None,
    layout: str | None = None,
) -> Adapted:
    """Prepare an export that is there."""
    model = prepare(path, folder, precision=precision, layout=layout)
    session = open_session(folder, model, threads=1)
    return Adapted(name, folder, model, session, Original(path))


def log_odds(logits: np.ndarray) -> np.ndarray:
    """yes - no."""
    return logits[:, 0] - logits[:, 1]


def edit_export(path: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    """Change the protobuf of an export; its external data stays as it is."""
    model = onnx.load_model_from_string(path.read_bytes())
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def make_export(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    *,
    hidden: int = 64,
    vocabulary: int = 397,
    inputs: Sequence[str] = ("input_ids", "attention_mask"),
    output: str = "logits",
    opset: int = 21,
) -> Path:
    """A language model without attention: `hidden` [B, S, hidden], then the nodes given."""
    table = np.random.default_rng(7).standard_normal((vocabulary, hidden)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["embedded"], "/embed"),
            helper.make_node("Tanh", ["embedded"], ["hidden"], "/norm"),
            *nodes,
        ],
        "made by hand",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "S"]) for name in inputs],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["B", "S", "V"])],
        initializer=[
            numpy_helper.from_array(values, name)
            for name, values in {"table": table, **weights}.items()
        ],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    shutil.copy(EXPORTS / "checkpoint" / "tokenizer.json", path.parent)
    return path
