"""A prepared model is whole, says where it comes from, and is the same each time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from graph_models import SHAPES, Built
from oracles.checkpoints import Shape, edit_config, make_random_checkpoint, save_tokenizer
from shardrank.engine.model import PreparedModel, file_sha256
from shardrank.engine.prompt import DEFAULT_INSTRUCTION
from shardrank.errors import ModelError
from shardrank.graph.prepare import prepare


def test_the_folder_holds_what_a_worker_needs_and_nothing_else(grouped: Built) -> None:
    names = {path.name for path in grouped.folder.iterdir()}
    assert names == {"model.onnx", "tokenizer.json", "reranker.json"}


def test_the_description_is_what_prepare_returned(grouped: Built) -> None:
    assert PreparedModel.load(grouped.folder) == grouped.model
    grouped.model.verify(grouped.folder)


def test_the_description_tells_ids_prompt_and_source(grouped: Built) -> None:
    model = grouped.model
    vocabulary = json.loads((grouped.source / "tokenizer.json").read_text())["model"]["vocab"]
    assert (model.yes_id, model.no_id) == (vocabulary["yes"], vocabulary["no"])
    assert (model.precision, model.layout, model.batch_dependent) == ("fp32", "padded", False)
    assert (model.prompt_style, model.instruction) == ("transformers", DEFAULT_INSTRUCTION)
    assert model.source == {
        "name": "checkpoint",
        "files": {
            name: file_sha256(grouped.source / name)
            for name in ("config.json", "model.safetensors", "tokenizer.json")
        },
    }


def test_no_path_of_this_machine_is_written(grouped: Built) -> None:
    for path in grouped.folder.iterdir():
        assert str(grouped.source.parent).encode() not in path.read_bytes()


def test_preparing_twice_gives_the_same_bytes(grouped: Built, tmp_path: Path) -> None:
    again = prepare(
        grouped.source, tmp_path / "again", precision="fp32", layout="padded", max_tokens=1024
    )
    assert again == grouped.model
    for path in grouped.folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_files_and_dtypes_of_the_source_do_not_change_the_graph(tmp_path: Path) -> None:
    whole = make_random_checkpoint(tmp_path / "whole", Shape(num_layers=3, dtype="bfloat16"))
    parts = make_random_checkpoint(
        tmp_path / "parts", Shape(num_layers=3, dtype="bfloat16", shards=3)
    )
    one, other = prepare(whole, tmp_path / "one"), prepare(parts, tmp_path / "other")
    assert one.files == other.files


def test_a_large_model_keeps_its_weights_beside_the_graph(tmp_path: Path) -> None:
    shape = Shape(num_layers=1, vocab=400_000)
    source = make_random_checkpoint(tmp_path / "checkpoint", shape)
    model = prepare(source, tmp_path / "model")
    assert sorted(model.files) == ["model.onnx", "model.onnx.data", "tokenizer.json"]
    assert (tmp_path / "model" / "model.onnx").stat().st_size < 1_000_000
    graph = onnx.load(tmp_path / "model" / "model.onnx").graph
    table = next(t for t in graph.initializer if t.name == "embed_tokens.weight")
    expected = load_file(source / "model.safetensors")["model.embed_tokens.weight"]
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(table), expected)


def test_the_embedding_is_stored_once(grouped: Built) -> None:
    graph = onnx.load(grouped.folder / "model.onnx").graph
    assert [list(t.dims) for t in graph.initializer if 320 in t.dims] == [[320, 64]]


@pytest.mark.parametrize(("asked", "expected"), [(None, 8192), (500, 500), (40_960, 40_960)])
def test_max_tokens_is_as_asked_or_as_the_card_recommends(
    checkpoint: Path, tmp_path: Path, asked: int | None, expected: int
) -> None:
    assert prepare(checkpoint, tmp_path / "model", max_tokens=asked).max_tokens == expected


def test_a_model_made_for_less_takes_less(checkpoint: Path, tmp_path: Path) -> None:
    edit_config(checkpoint, max_position_embeddings=512)
    assert prepare(checkpoint, tmp_path / "model").max_tokens == 512


def test_progress_is_told(checkpoint: Path, tmp_path: Path) -> None:
    told: list[str] = []
    prepare(checkpoint, tmp_path / "model", progress=told.append)
    assert told[0] == "reading the checkpoint"
    assert len(told) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int2"}, "precision 'int2' is not available in this version; there is w8a8"),
        ({"precision": "int8", "block_size": 48}, "block size 48 is not available; choose 16, 32"),
        ({"precision": "w8a8", "block_size": 32}, "precision 'w8a8', which has no blocks"),
        (
            {"layout": "paged-out"},
            "layout 'paged-out' is not available in this version; there is padded, fused",
        ),
        ({"prompt_style": "chat"}, "prompt style 'chat' is not available"),
        ({"max_tokens": 0}, "max_tokens = 0 was asked for"),
        ({"max_tokens": 50_000}, "max_position_embeddings = 40960; choose a number from 1"),
    ],
)
def test_an_option_that_cannot_be_had_is_refused(
    checkpoint: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        prepare(checkpoint, tmp_path / "model", **options)


@pytest.mark.parametrize("token", ["yes", "no", "<|endoftext|>", "<|im_start|>", "</think>"])
def test_a_tokenizer_without_a_token_of_the_prompt_is_refused(
    checkpoint: Path, tmp_path: Path, token: str
) -> None:
    save_tokenizer(checkpoint / "tokenizer.json", without=(token,))
    with pytest.raises(ModelError, match=r"tokenizer\.json has no .*token.*" + token.strip("<|>")):
        prepare(checkpoint, tmp_path / "model")


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    source = make_random_checkpoint(tmp_path / "checkpoint", Shape(num_layers=1, vocab=260))
    with pytest.raises(ModelError, match=r"ids up to 263 and config\.json has vocab_size = 260"):
        prepare(source, tmp_path / "model")


def test_a_checkpoint_without_tokenizer_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"holds no tokenizer\.json"):
        prepare(checkpoint, tmp_path / "model")


def change_tensors(checkpoint: Path, **tensors: np.ndarray | None) -> None:
    """Add, replace or (None) remove tensors; a double underscore stands for a dot."""
    path = checkpoint / "model.safetensors"
    changes = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    changed = {**load_file(path), **changes}
    save_file({name: tensor for name, tensor in changed.items() if tensor is not None}, path)


def test_a_missing_tensor_is_named(checkpoint: Path, tmp_path: Path) -> None:
    change_tensors(checkpoint, model__layers__0__mlp__up_proj__weight=None)
    with pytest.raises(ModelError, match=r"holds no tensor layers\.0\.mlp\.up_proj\.weight"):
        prepare(checkpoint, tmp_path / "model")


@pytest.mark.parametrize("name", ["score__weight", "model__layers__0__self_attn__q_proj__bias"])
def test_a_tensor_that_nothing_would_read_is_refused(
    checkpoint: Path, tmp_path: Path, name: str
) -> None:
    change_tensors(checkpoint, **{name: np.ones((1, 64), np.float32)})
    short = name.replace("__", ".").removeprefix("model.")
    with pytest.raises(ModelError, match=f"holds {short}, which the graph does not compute with"):
        prepare(checkpoint, tmp_path / "model")


def test_config_and_weights_of_two_checkpoints_are_refused(
    checkpoint: Path, tmp_path: Path
) -> None:
    edit_config(checkpoint, intermediate_size=95)
    with pytest.raises(ModelError, match=r"gate_proj\.weight has shape \[96, 64\] where"):
        prepare(checkpoint, tmp_path / "model")


def test_an_untied_head_is_needed(checkpoint: Path, tmp_path: Path) -> None:
    edit_config(checkpoint, tie_word_embeddings=False)
    with pytest.raises(ModelError, match=r"holds no tensor lm_head\.weight"):
        prepare(checkpoint, tmp_path / "model")


def test_a_tied_head_may_be_stored_twice(checkpoint: Path, tmp_path: Path) -> None:
    plain = prepare(checkpoint, tmp_path / "plain")
    table = load_file(checkpoint / "model.safetensors")["model.embed_tokens.weight"]
    change_tensors(checkpoint, lm_head__weight=table)
    assert prepare(checkpoint, tmp_path / "model").files == plain.files


def test_a_head_that_is_tied_in_name_only_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    table = load_file(checkpoint / "model.safetensors")["model.embed_tokens.weight"]
    change_tensors(checkpoint, lm_head__weight=table + 1)
    with pytest.raises(ModelError, match=r"tie_word_embeddings = True, and lm_head\.weight diff"):
        prepare(checkpoint, tmp_path / "model")


def test_nothing_half_written_is_left_behind(tmp_path: Path) -> None:
    source = make_random_checkpoint(tmp_path / "checkpoint", SHAPES["untied"])
    path = source / "model.safetensors"
    change_tensors(source, model__norm__weight=None)
    before = set(tmp_path.iterdir())
    with pytest.raises(ModelError, match=r"norm\.weight"):
        prepare(source, tmp_path / "model")
    assert set(tmp_path.iterdir()) == before
    assert path.is_file()


def test_a_used_folder_is_never_written_into(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="is there already and is not an empty folder"):
        prepare(checkpoint, tmp_path / "model")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["notes.txt"]


def test_an_empty_folder_is_taken(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    prepare(checkpoint, tmp_path / "model").verify(tmp_path / "model")


def test_an_output_that_cannot_be_made_is_told(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot be written: Not a directory"):
        prepare(checkpoint, tmp_path / "file" / "model")


def test_a_full_disk_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal = pytest.importorskip("signal")
    # A write over the limit fails as on a full disk, once its signal is ignored.
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(ModelError, match="cannot be written: File too large; nothing was left"):
            prepare(checkpoint, tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_copied_model_is_the_same_model(grouped: Built, tmp_path: Path) -> None:
    shutil.copytree(grouped.folder, tmp_path / "copy")
    PreparedModel.load(tmp_path / "copy").verify(tmp_path / "copy")
