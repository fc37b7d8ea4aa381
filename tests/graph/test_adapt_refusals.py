"""What cannot be mended to the letter is refused, and nothing is left behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from commands import shardrank
from exports import EXPORTS, copy_export, edit_export, make_export
from shardrank.errors import ModelError
from shardrank.graph.prepare import prepare

HEAD = [helper.make_node("MatMul", ["hidden", "w"], ["logits"], "/head")]
WEIGHTS = {"w": np.ones((64, 397), np.float32)}


def refused(source: Path, message: str) -> None:
    output = source.parent / "out" / "model"
    with pytest.raises(ModelError, match=message):
        prepare(source, output)
    assert not output.exists()
    assert not output.parent.exists() or not list(output.parent.iterdir())


def test_norms_inside_the_attention_are_refused_by_node(tmp_path: Path) -> None:
    path = copy_export("genai_int4_webgpu", tmp_path / "export")
    refused(
        path, r"'/model/layers\.0/attn/GroupQueryAttention' .*\(inputs 14 and 15\), which .*CPU"
    )


def test_an_unknown_input_is_refused_by_name(tmp_path: Path) -> None:
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    path = make_export(tmp_path / "model.onnx", HEAD, WEIGHTS, inputs=inputs)
    refused(path, "takes token_type_ids, which a Qwen3 reranker's export does not; .*encoder")


@pytest.mark.parametrize("missing", ["input_ids", "attention_mask"])
def test_an_export_without_ids_or_mask_is_refused(tmp_path: Path, missing: str) -> None:
    path = make_export(tmp_path / "model.onnx", HEAD, WEIGHTS)

    def change(model: onnx.ModelProto) -> None:
        kept = [value for value in model.graph.input if value.name != missing]
        if missing == "input_ids":
            model.graph.node[0].input[1] = "attention_mask"
        del model.graph.input[:]
        model.graph.input.extend(kept)

    refused(edit_export(path, change), f"and no {missing}; give the export of a causal language")


def test_outputs_without_logits_are_refused_by_name(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["hidden"], ["pooled"], "/pool")]
    path = make_export(tmp_path / "model.onnx", nodes, {}, output="last_hidden_state")

    def change(model: onnx.ModelProto) -> None:
        model.graph.output[0].name = "hidden"
        model.graph.output.append(
            helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["B", "S", 64])
        )

    refused(edit_export(path, change), "gives hidden, pooled, none of which is called logits")


def test_an_encoder_without_a_head_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Tanh", ["hidden"], ["last_hidden_state"], "/last")]
    path = make_export(tmp_path / "model.onnx", nodes, {}, output="last_hidden_state")
    refused(path, r"the logits come from node '/last' \(Tanh\), behind which no head was found")


def test_logits_of_another_name_are_found(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["hidden", "w"], ["scores"], "/head")]
    path = make_export(tmp_path / "model.onnx", nodes, WEIGHTS, output="scores")
    assert prepare(path, tmp_path / "model").architecture["vocabulary_size"] == 397


def test_a_config_of_another_model_is_refused(tmp_path: Path) -> None:
    path = copy_export("optimum", tmp_path / "export")
    config = path.parent / "config.json"
    config.write_text(config.read_text().replace('"qwen3"', '"llama"'))
    refused(path, r"config\.json says that the model is 'llama'; only exports of 'qwen3'")


def test_a_past_of_unknown_size_is_refused(tmp_path: Path) -> None:
    path = copy_export("optimum", tmp_path / "export")

    def change(model: onnx.ModelProto) -> None:
        for value in model.graph.input:
            if "past" in value.name:
                value.type.tensor_type.shape.dim[3].dim_param = "size"

    refused(edit_export(path, change), r"reads past_key_values\.0\.key, whose number of heads or")


def test_a_graph_that_does_not_load_is_refused_with_the_reason(tmp_path: Path) -> None:
    """As the builder leaves a tied head that is not symmetric: a required input is missing."""
    path = copy_export("genai_int4", tmp_path / "export")

    def change(model: onnx.ModelProto) -> None:
        node = next(n for n in model.graph.node if n.op_type == "GatherBlockQuantized")
        node.input[2] = ""

    refused(edit_export(path, change), r"cannot be loaded by onnxruntime .*GatherBlockQuantized")


def test_a_graph_that_does_not_run_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = copy_export("genai_fp32", tmp_path / "export")

    def change(model: onnx.ModelProto) -> None:
        node = next(n for n in model.graph.node if n.op_type == "GroupQueryAttention")
        next(a for a in node.attribute if a.name == "kv_num_heads").i = 1

    refused(edit_export(path, change), r"cannot be run by onnxruntime [\d.]+ on a CPU: ")


def test_a_graph_that_mending_changes_is_refused(tmp_path: Path) -> None:
    """Here the whole row decides about each of its tokens, which a padded row cannot repeat."""
    nodes = [
        helper.make_node("ReduceMean", ["hidden", "axis"], ["mean"], "/mean", keepdims=1),
        helper.make_node("Sub", ["hidden", "mean"], ["centred"], "/centre"),
        helper.make_node("MatMul", ["centred", "w"], ["logits"], "/head"),
    ]
    random = np.random.default_rng(0).standard_normal((64, 397)).astype(np.float32)
    weights = {"w": random, "axis": np.array([1], np.int64)}
    refused(
        make_export(tmp_path / "model.onnx", nodes, weights),
        r"after mending, its logits differ by [\d.]+ from its own",
    )


def test_a_missing_tokenizer_is_told(tmp_path: Path) -> None:
    shutil.copytree(EXPORTS / "genai_q4", tmp_path / "a" / "export")
    refused(tmp_path / "a" / "export" / "model.onnx", r"holds tokenizer\.json; copy the one of")


def test_the_tokenizer_may_lie_one_level_up(tmp_path: Path) -> None:
    path = copy_export("genai_q4", tmp_path / "repository" / "onnx")
    (path.parent / "tokenizer.json").rename(path.parent.parent / "tokenizer.json")
    assert prepare(path.parent.parent, tmp_path / "model").precision == "q4"


def test_a_folder_with_several_exports_asks_for_a_file(tmp_path: Path) -> None:
    path = copy_export("genai_q4", tmp_path / "export")
    shutil.copy(path, path.parent / "model_q4.onnx")
    refused(path.parent, r"holds several exports \(model\.onnx, model_q4\.onnx\); give one of the")


def test_a_folder_with_safetensors_is_a_checkpoint(tmp_path: Path) -> None:
    shutil.copytree(EXPORTS / "checkpoint", tmp_path / "checkpoint")
    shutil.copy(EXPORTS / "genai_q4" / "model.onnx", tmp_path / "checkpoint")
    assert prepare(tmp_path / "checkpoint", tmp_path / "model").precision == "w8a8"


def test_an_unknown_precision_is_refused(tmp_path: Path) -> None:
    path = copy_export("genai_q4", tmp_path / "export")
    with pytest.raises(ModelError, match="'int3' is not available .* there is as-is, w8a8, fp32"):
        prepare(path, tmp_path / "model", precision="int3")


def test_the_layout_of_gpus_is_refused(tmp_path: Path) -> None:
    path = copy_export("genai_q4", tmp_path / "export")
    with pytest.raises(ModelError, match="layout 'paged' is not .* there is padded, prefix"):
        prepare(path, tmp_path / "model", layout="paged")


def test_more_tokens_than_the_table_of_positions_are_refused(tmp_path: Path) -> None:
    path = copy_export("genai_q4", tmp_path / "export")
    with pytest.raises(ModelError, match="max_tokens = 300 was asked for and the export has pos"):
        prepare(path, tmp_path / "model", max_tokens=300)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export"]


def test_the_command_takes_an_export(tmp_path: Path) -> None:
    path = copy_export("genai_q4", tmp_path / "export")
    done = shardrank("prepare", path, "--output", tmp_path / "model")
    assert done.returncode == 0, done.stderr
    assert "model: q4, layout padded, transformers prompts" in done.stdout
    scored = shardrank("score", "--", tmp_path / "model", "red planet", "Mars", "Venus")
    assert scored.returncode == 0, scored.stderr
