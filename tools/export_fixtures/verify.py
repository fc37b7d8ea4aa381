"""Run every export, compare it with transformers in float32, and write manifest.json.

python verify.py EXPORTS UNTIED

EXPORTS holds `checkpoint` and the exports; UNTIED is the checkpoint with a head of its own. Runs in
the environment of requirements-genai.txt. Prints the table of README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

IntegerArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]

PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n<Instruct>: Given a web search query, retrieve relevant passages that "
    "answer the query\n"
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
PAIRS = (
    ("What is the capital of China?", "The capital of China is Beijing."),
    ("red planet", ""),
    ("red planet", "Mars"),
    ("red planet", "Venus is the second planet from the Sun and the hottest of all of them."),
    ("how do bees find flowers", "Many petals carry marks, seen in ultraviolet, that guide them."),
    (
        "Explain gravity",
        "Gravity is a force that attracts two bodies towards each other. It gives weight to things "
        "and keeps the planets in their orbits around the sun.",
    ),
)
UNTIED_EXPORTS = {"genai_int4_zero_points"}
MADE_BY = {
    "genai_fp32": "-p fp32 -e cpu",
    "genai_int4": "-p int4 -e cpu",
    "genai_int4_last_token": "-p int4 -e cpu --extra_options prune_lm_head=true",
    "genai_int4_zero_points": "-p int4 -e cpu --extra_options is_symmetric=false (untied head)",
    "genai_int4_webgpu": "-p int4 -e webgpu --extra_options use_webgpu_fp32=true",
    "genai_fp16_position_ids": "-p fp16 -e dml",
    "genai_quantized": "quantize_dynamic of genai_fp32 (MatMul, Gemm; QInt8 per tensor)",
    "genai_q4": "MatMulNBitsQuantizer of genai_fp32 (4 bits, block 32, accuracy level 4)",
    "genai_int4_num_logits_to_keep": "genai_int4 with the input num_logits_to_keep added",
    "optimum": "--task text-generation-with-past",
    "optimum_fp16_no_past": "--task text-generation --dtype fp16",
    "optimum_quantized": "quantize_dynamic of optimum_folded (MatMul, Gemm; QInt8 per tensor)",
    "optimum_q4": "MatMulNBitsQuantizer of optimum_folded (4 bits, block 32, accuracy level 4)",
    "optimum_q4_gemm_head": "MatMulNBitsQuantizer of optimum, its float head turned into a Gemm",
}
NORMS = {"SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"}


@dataclass(frozen=True)
class Prompts:
    """The prompts of PAIRS and the two answers' ids."""

    ids: list[list[int]]
    yes: int
    no: int
    pad: int


def read_prompts(checkpoint: Path) -> Prompts:
    """Encode PAIRS as the model card's transformers usage does."""
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    texts = [f"{PREFIX}<Query>: {query}\n<Document>: {text}{SUFFIX}" for query, text in PAIRS]
    return Prompts(
        [tokenizer.encode(text, add_special_tokens=False).ids for text in texts],
        tokenizer.token_to_id("yes"),
        tokenizer.token_to_id("no"),
        tokenizer.token_to_id("<|endoftext|>"),
    )


def reference_log_odds(checkpoint: Path, prompts: Prompts) -> FloatArray:
    """transformers' float32 log-odds, each prompt alone."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = [model(torch.tensor([ids])).logits[0, -1] for ids in prompts.ids]
    return np.array([(row[prompts.yes] - row[prompts.no]).item() for row in logits], np.float32)


def describe_value(value: ValueInfoProto) -> dict[str, object]:
    """Name, type and shape of a graph's input or output."""
    tensor = value.type.tensor_type
    return {
        "name": value.name,
        "dtype": TensorProto.DataType.Name(tensor.elem_type).lower(),
        "shape": [size.dim_param or size.dim_value for size in tensor.shape.dim],
    }


def is_final_norm(node: NodeProto) -> bool:
    """Whether a node ends a normalization: a fused one, or the product with the norm's weight."""
    return node.op_type in NORMS or (
        node.op_type == "Mul" and any(name.endswith("norm.weight") for name in node.input)
    )


def head_nodes(model: ModelProto) -> list[NodeProto]:
    """The nodes from the final norm's output (without its node) to the logits, in graph order."""
    producers = {output: node for node in model.graph.node for output in node.output}
    found: dict[str, NodeProto] = {}
    open_names = ["logits"]
    while open_names:
        node = producers.get(open_names.pop())
        if node is not None and not is_final_norm(node) and node.name not in found:
            found[node.name] = node
            open_names += node.input
    return [node for node in model.graph.node if node.name in found]


def describe_head(model: ModelProto) -> list[dict[str, object]]:
    """Op, name, inputs (constants with type and shape) and outputs of the head's nodes."""
    constants = {
        tensor.name: f"{TensorProto.DataType.Name(tensor.data_type).lower()}{list(tensor.dims)}"
        for tensor in model.graph.initializer
    }
    return [
        {
            "op": node.op_type,
            "name": node.name,
            "inputs": [f"{n} {constants[n]}" if n in constants else n for n in node.input],
            "outputs": list(node.output),
            "attributes": {
                attribute.name: helper.get_attribute_value(attribute)
                for attribute in node.attribute
                if attribute.type in {onnx.AttributeProto.INT, onnx.AttributeProto.INTS}
            },
        }
        for node in head_nodes(model)
        if node.op_type != "Constant"
    ]


def describe_attention(model: ModelProto) -> str:
    """How attention, rotary embedding and the q and k norms are written."""
    for node in model.graph.node:
        if node.op_type == "GroupQueryAttention":
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            rotary = "rotary inside" if attributes.get("do_rotary") else "RotaryEmbedding before"
            norms = "q and k norms inside" if len(node.input) > 14 else "q and k norms before"
            return f"GroupQueryAttention, {rotary}, {norms}"
    return "unfused: MatMul, Add mask, Softmax, MatMul; rotary from position_ids by Cos and Sin"


def feeds(
    session: onnxruntime.InferenceSession, ids: IntegerArray, mask: IntegerArray
) -> dict[str, NDArray[Any]]:
    """Everything that a graph asks for, the past being empty.

    position_ids count the tokens of a row; on padding they are 1, as transformers has them.
    """
    given = {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": np.where(mask == 1, mask.cumsum(1) - 1, 1),
        "num_logits_to_keep": np.array(0, np.int64),
    }
    found = {}
    for value in session.get_inputs():
        if value.name.startswith("past_key_values."):
            num_heads = value.shape[1]
            size = value.shape[3] if isinstance(value.shape[3], int) else 32
            dtype = np.float16 if value.type == "tensor(float16)" else np.float32
            found[value.name] = np.zeros((len(ids), num_heads, 0, size), dtype)
        else:
            found[value.name] = given[value.name]
    return found


def log_odds(
    session: onnxruntime.InferenceSession, prompts: Prompts, rows: list[int], side: str
) -> FloatArray:
    """The log-odds of some prompts in one batch, padded on `side`."""
    chosen = [prompts.ids[row] for row in rows]
    width = max(map(len, chosen))
    ids = np.full((len(chosen), width), prompts.pad, np.int64)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(chosen):
        place = slice(width - len(prompt), None) if side == "left" else slice(len(prompt))
        ids[row, place], mask[row, place] = prompt, 1
    logits = session.run(["logits"], feeds(session, ids, mask))[0].astype(np.float32)
    last = np.array([-1 if side == "left" else len(prompt) - 1 for prompt in chosen])
    rows_of_logits = logits[np.arange(len(chosen)), last]
    return rows_of_logits[:, prompts.yes] - rows_of_logits[:, prompts.no]


def measure(path: Path, prompts: Prompts, reference: FloatArray) -> dict[str, object]:
    """Errors of a graph: alone against the reference, and padded against alone."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    every = list(range(len(prompts.ids)))
    try:
        alone = np.concatenate([log_odds(session, prompts, [row], "left") for row in every])
    except onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument as error:
        return {"runs_on_cpu": False, "error": str(error).split("Status Message: ")[-1]}
    whole = session.get_outputs()[0].shape[1] != 1
    found: dict[str, object] = {
        "runs_on_cpu": True,
        "max_error_alone": largest(alone - reference),
        "max_change_left_padded": largest(log_odds(session, prompts, every, "left") - alone),
    }
    if whole:
        right = log_odds(session, prompts, every, "right")
        found["max_change_right_padded"] = largest(right - alone)
    return found


def largest(difference: FloatArray) -> float:
    """The largest absolute value, with three digits."""
    return float(f"{np.abs(difference).max():.3g}")


def describe_files(folder: Path) -> dict[str, dict[str, object]]:
    """Size and sha256 of a folder's files."""
    return {
        path.name: {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.iterdir())
    }


def describe(
    folder: Path, prompts: Prompts, references: dict[str, FloatArray]
) -> dict[str, object]:
    """The manifest's entry of an export."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    checkpoint = "untied" if folder.name in UNTIED_EXPORTS else "checkpoint"
    operators = Counter(
        f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        for node in model.graph.node
    )
    return {
        "made_by": MADE_BY[folder.name],
        "checkpoint": checkpoint,
        "producer": f"{model.producer_name} {model.producer_version}",
        "ir_version": model.ir_version,
        "opsets": {opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
        "inputs": [describe_value(value) for value in model.graph.input],
        "outputs": [describe_value(value) for value in model.graph.output],
        "attention": describe_attention(model),
        "head": describe_head(model),
        "operators": dict(sorted(operators.items())),
        "log_odds": measure(folder / "model.onnx", prompts, references[checkpoint]),
        "files": describe_files(folder),
    }


def table_row(name: str, entry: dict[str, Any]) -> str:
    """A row of the README's table."""
    found = entry["log_odds"]
    cells = [
        f"`{name}`",
        " ".join(node["op"] for node in entry["head"]),
        *(
            f"{found[key]:.2g}" if key in found else "-"
            for key in ("max_error_alone", "max_change_left_padded", "max_change_right_padded")
        ),
        f"{sum(file['bytes'] for file in entry['files'].values()) // 1000} kB",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Read the command line, measure, and write manifest.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("exports", type=Path)
    parser.add_argument("untied", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = arguments.exports / "checkpoint"
    prompts = read_prompts(checkpoint)
    references = {
        "checkpoint": reference_log_odds(checkpoint, prompts),
        "untied": reference_log_odds(arguments.untied, prompts),
    }
    exports = {
        name: describe(arguments.exports / name, prompts, references) for name in sorted(MADE_BY)
    }
    manifest = {
        "versions": {
            name: version(name)
            for name in ("onnx", "onnxruntime", "onnxruntime-genai", "torch", "transformers")
        },
        "checkpoint": {
            "yes": prompts.yes,
            "no": prompts.no,
            "pad": prompts.pad,
            "files": describe_files(checkpoint),
        },
        "prompts": [{"query": query, "document": document} for query, document in PAIRS],
        "token_ids": prompts.ids,
        "reference_log_odds": {name: row.tolist() for name, row in references.items()},
        "exports": exports,
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    (arguments.exports / "manifest.json").write_text(text + "\n", encoding="utf-8")
    for name, entry in exports.items():
        print(table_row(name, entry))


if __name__ == "__main__":
    main()
