"""Quantize exports as model_quantized.onnx and model_q4.onnx are made, and write two variants.

python make_quantized.py EXPORTS SCRATCH

EXPORTS holds genai_fp32, genai_int4 and optimum, and gets the results; SCRATCH holds
optimum_folded. Runs in the environment of requirements-genai.txt.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer


def load(folder: Path) -> ModelProto:
    """The model of an export with its external data in memory."""
    return onnx.load(folder / "model.onnx")


def save(model: ModelProto, folder: Path) -> None:
    """Write a model as one file."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")


def quantize_dynamically(source: Path, output: Path) -> None:
    """Dynamic int8 of MatMul and Gemm, one scale for each weight: model_quantized.onnx."""
    output.mkdir(parents=True, exist_ok=True)
    quantize_dynamic(
        load(source),
        output / "model.onnx",
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=False,
        reduce_range=False,
        weight_type=QuantType.QInt8,
        extra_options={"EnableSubgraph": True, "MatMulConstBOnly": True},
    )


def quantize_to_4_bits(model: ModelProto) -> ModelProto:
    """MatMulNBits of 4 bits, block 32, accuracy level 4: model_q4.onnx."""
    quantizer = MatMulNBitsQuantizer(
        model, bits=4, block_size=32, is_symmetric=True, accuracy_level=4
    )
    quantizer.process()
    return quantizer.model.model


def producer(model: ModelProto, value: str) -> NodeProto:
    """The node that makes a value."""
    return next(node for node in model.graph.node if value in node.output)


def constant(model: ModelProto, name: str, value: int | list[int]) -> str:
    """Add an int64 initializer and return its name."""
    model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    return name


def insert_before(model: ModelProto, place: NodeProto, nodes: list[NodeProto]) -> None:
    """Insert nodes into the graph in front of a node."""
    index = list(model.graph.node).index(place)
    for offset, node in enumerate(nodes):
        model.graph.node.insert(index + offset, node)


def with_gemm_head(model: ModelProto) -> ModelProto:
    """Turn MatMul(hidden, Transpose(embedding)) into a Gemm with transB on the embedding.

    Graph optimizers write a tied head so. Gemm takes matrices: two Reshape nodes go around it.
    """
    head = producer(model, "logits")
    transpose = producer(model, head.input[1])
    hidden, embedding = head.input[0], transpose.input[0]
    size, hidden_size = next(
        tuple(tensor.dims) for tensor in model.graph.initializer if tensor.name == embedding
    )
    matrix = constant(model, "lm_head.matrix_shape", [-1, hidden_size])
    width = constant(model, "lm_head.vocabulary", [size])
    nodes = [
        helper.make_node("Reshape", [hidden, matrix], ["lm_head.matrix"], "/lm_head/Reshape"),
        helper.make_node(
            "Gemm",
            ["lm_head.matrix", embedding],
            ["lm_head.rows"],
            "/lm_head/Gemm",
            transB=1,
        ),
        helper.make_node("Shape", [hidden], ["lm_head.leading"], "/lm_head/Shape", start=0, end=2),
        helper.make_node(
            "Concat", ["lm_head.leading", width], ["lm_head.shape"], "/lm_head/Concat", axis=0
        ),
        helper.make_node(
            "Reshape", ["lm_head.rows", "lm_head.shape"], ["logits"], "/lm_head/Reshape_1"
        ),
    ]
    insert_before(model, head, nodes)
    model.graph.node.remove(head)
    model.graph.node.remove(transpose)
    return model


def with_num_logits_to_keep(model: ModelProto) -> ModelProto:
    """Add the input num_logits_to_keep of Transformers.js' exports: an int64 scalar, 0 for all.

    No exporter used here has an option for it.
    """
    head = producer(model, "logits")
    hidden = head.input[0]
    kept = "num_logits_to_keep"
    model.graph.input.append(helper.make_tensor_value_info(kept, TensorProto.INT64, []))
    shape = constant(model, "lm_head.one_element", [1])
    end = constant(model, "lm_head.end", [np.iinfo(np.int64).max])
    axis = constant(model, "lm_head.axis", [1])
    nodes = [
        helper.make_node("Neg", [kept], ["lm_head.negative"], "/lm_head/Neg"),
        helper.make_node(
            "Reshape", ["lm_head.negative", shape], ["lm_head.start"], "/lm_head/Reshape"
        ),
        helper.make_node(
            "Slice", [hidden, "lm_head.start", end, axis], ["lm_head.kept"], "/lm_head/Slice"
        ),
    ]
    insert_before(model, head, nodes)
    head.input[0] = "lm_head.kept"
    logits = next(value for value in model.graph.output if value.name == "logits")
    logits.type.tensor_type.shape.dim[1].dim_param = "num_logits"
    return model


def main() -> None:
    """Read the command line and write every result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("exports", type=Path)
    parser.add_argument("scratch", type=Path)
    arguments = parser.parse_args()
    exports, folded = arguments.exports, arguments.scratch / "optimum_folded"
    fused = exports / "genai_fp32"
    quantize_dynamically(fused, exports / "genai_quantized")
    quantize_dynamically(folded, exports / "optimum_quantized")
    save(quantize_to_4_bits(load(fused)), exports / "genai_q4")
    save(quantize_to_4_bits(load(folded)), exports / "optimum_q4")
    save(
        with_gemm_head(quantize_to_4_bits(load(exports / "optimum"))),
        exports / "optimum_q4_gemm_head",
    )
    save(
        with_num_logits_to_keep(load(exports / "genai_int4")),
        exports / "genai_int4_num_logits_to_keep",
    )


if __name__ == "__main__":
    main()
