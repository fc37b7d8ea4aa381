"""Somebody else's ONNX export becomes a model of layout `padded` or `prefix`."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from shardrank.engine.layouts import past_names
from shardrank.engine.model import GRAPH_NAME, TOKENIZER_NAME
from shardrank.errors import ModelError
from shardrank.graph.answers import AnswerIds, find_answer_ids
from shardrank.graph.cache import supply_inputs
from shardrank.graph.conversion import AS_IS, Conversion, choose_conversion
from shardrank.graph.edited import EditedGraph
from shardrank.graph.export import Export
from shardrank.graph.head import HeadCut, find_head
from shardrank.graph.origin import Origin, find_tokenizer, read_origin
from shardrank.graph.past import ExportPast
from shardrank.graph.rows import align_rows
from shardrank.graph.saving import save_graph
from shardrank.graph.trial import Trial

EXPORT_LAYOUTS = ("padded", "prefix")
_LOGITS = "logits"


@dataclass(frozen=True, slots=True)
class Adapted:
    """What was written, for reranker.json.

    origin: of the export, with the precision and the steadiness of what was made of it.
    answers: ids of the two columns, and of padding. source: paths of the files that were read.
    """

    origin: Origin
    answers: AnswerIds
    source: list[Path]


def find_export(source: Path) -> Path | None:
    """The .onnx file that a source means; None if it means a checkpoint.

    A folder with safetensors is a checkpoint, whatever else it holds. Raises ModelError if a
    folder holds several exports.
    """
    if source.suffix == ".onnx":
        return source
    if not source.is_dir() or any(source.glob("*.safetensors")):
        return None
    found = sorted(source.glob("*.onnx"))
    if not found:
        found = sorted(source.glob("onnx/*.onnx"))
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(source)) for path in found)
        raise ModelError(f"{source} holds several exports ({names}); give one of the files.")
    return found[0] if found else None


def adapt(path: Path, folder: Path, *, precision: str = AS_IS, layout: str = "padded") -> Adapted:
    """Write the graph and the tokenizer of an export into an existing folder.

    path: an .onnx file, with its external data beside it and tokenizer.json there or one level up.
    precision: "as-is" keeps the weights; another converts them (conversion.Conversion).
    layout: "padded", or "prefix" (past.ExportPast).

    The graph that is written takes input_ids and attention_mask, int64 [batch, sequence], padded on
    either side, and gives logits, float32 [batch, 2], at each row's last token: rows are rolled to
    column 0, the head is cut to two columns, and the other inputs are supplied inside. Before it
    counts, it is run beside the export itself.

    Raises ModelError, naming file and node, if the export cannot be mended to the letter.
    """
    tokenizer = find_tokenizer(path)
    export = Export(path)
    graph = EditedGraph(export)
    _refuse_norms_inside(graph)
    logits = _find_logits(graph)
    # The new logits are called so.
    own_logits = graph.free_name(logits.name)
    graph.free_name(_LOGITS)
    head = find_head(graph, own_logits)
    origin = read_origin(graph, head, logits)
    quantizes = origin.precision == "fp32"
    target = choose_conversion(path, origin.precision, precision)
    if target is not None:
        origin = origin.converted(target)
    past = ExportPast(graph, origin) if layout == "prefix" else None
    answers = find_answer_ids(tokenizer, head.vocabulary_size, "the head's number of columns")
    ids = (answers.yes, answers.no)
    trial = Trial.of(graph, logits.name, origin, ids, converted=target is not None)

    rows = align_rows(graph, even=not origin.dynamic, past=past_names(0)[0] if past else None)
    cut = HeadCut(graph, head, ids, rows.last, keeps_scale=target is None).apply()
    supply_inputs(graph, rows, keeps_past=past is not None)
    graph.node("Cast", [cut], "head.float", output=_LOGITS, to=TensorProto.FLOAT)
    presents = past.connect(rows) if past else []
    two = helper.make_tensor_value_info(_LOGITS, TensorProto.FLOAT, ["batch", 2])
    graph.finish([two, *presents])
    if target is not None:
        # Behind the cut, so that nothing of the whole head is converted.
        Conversion(EditedGraph(export), target, quantizes=quantizes).apply()

    save_graph(export, folder)
    shutil.copyfile(tokenizer, folder / TOKENIZER_NAME)
    trial.compare(folder / GRAPH_NAME)
    return Adapted(
        origin=origin,
        answers=answers,
        source=[*(path.parent / name for name in export.files), tokenizer],
    )


def _find_logits(graph: EditedGraph) -> onnx.ValueInfoProto:
    """The output that holds the logits: called so, or the only one that is no cache."""
    outputs = list(graph.proto.output)
    for value in outputs:
        if value.name == _LOGITS:
            return value
    others = [value for value in outputs if len(value.type.tensor_type.shape.dim) != 4]
    if len(others) == 1:
        return others[0]
    names = ", ".join(value.name for value in outputs[:5])
    raise ModelError(
        f"{graph.export.path} gives {names or 'nothing'}, none of which is called logits; give the "
        f"export of a causal language model with its head (task text-generation)."
    )


def _refuse_norms_inside(graph: EditedGraph) -> None:
    """A CPU loads such a graph and fails when it is run."""
    for node in graph.nodes:
        if node.op_type == "GroupQueryAttention" and any(node.input[14:16]):
            raise ModelError(
                f"{graph.export.path}: node {node.name!r} (GroupQueryAttention) normalises queries "
                f"and keys inside (inputs 14 and 15), which onnxruntime's CPU cannot; export for "
                f"the CPU, or prepare the checkpoint."
            )
