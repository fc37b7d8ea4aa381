"""A checkpoint as wide as the 8B one, in several files and with a head of its own."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from graph_models import build_from, random_prompts
from oracles.checkpoints import REAL_SHAPE, Shape, make_random_checkpoint, save_tokenizer
from shardrank.engine.model import PreparedModel
from shardrank.graph.architecture import parse_architecture
from shardrank.graph.qwen3 import tensor_shapes

SHAPE_8B = replace(
    REAL_SHAPE, num_layers=36, hidden=4096, heads=32, intermediate=12_288, tied=False, shards=5
)
ROOM_BYTES = 2e9

PREPARE = """
import sys
from pathlib import Path
from shardrank.graph.prepare import prepare
prepare(Path(sys.argv[1]), Path(sys.argv[2]), precision="w8a8")
status = Path("/proc/self/status").read_text().split()
print(int(status[status.index("VmHWM:") + 1]) * 1024)
"""


def make_sparse_checkpoint(folder: Path, shape: Shape) -> int:
    """A bfloat16 checkpoint of zeros, as files with holes; returns its bytes."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(shape.config()))
    save_tokenizer(folder / "tokenizer.json")
    shapes = tensor_shapes(parse_architecture(shape.config()))
    names = [name if name.startswith("lm_head") else f"model.{name}" for name in shapes]
    sizes = dict(zip(names, shapes.values(), strict=True))
    weight_map = {}
    for number, part in enumerate(np.array_split(names, shape.shards)):
        file_name = f"model-{number + 1:05d}-of-{shape.shards:05d}.safetensors"
        header, end = {}, 0
        for name in part.tolist():
            start, end = end, end + 2 * math.prod(sizes[name])
            header[name] = {
                "dtype": "BF16", "shape": sizes[name], "data_offsets": [start, end]
            }  # fmt: skip
            weight_map[name] = file_name
        text = json.dumps(header).encode()
        with (folder / file_name).open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + end)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return sum(path.stat().st_size for path in folder.iterdir())


def test_the_shape_is_that_of_8b() -> None:
    architecture = parse_architecture(SHAPE_8B.config())
    num_values = sum(math.prod(shape) for shape in tensor_shapes(architecture).values())
    assert 15e9 < 2 * num_values < 17e9
    assert not architecture.tied_head


def test_many_layers_in_several_files_are_put_together(tmp_path: Path) -> None:
    """36 layers and a head of its own, narrow."""
    shape = Shape(num_layers=36, tied=False, dtype="bfloat16", shards=5)
    source = make_random_checkpoint(tmp_path / "source", shape)
    files = sorted(path.name for path in source.glob("*.safetensors"))
    assert len(files) == 5
    built = build_from(source, tmp_path / "model")
    prompts = random_prompts((3, 50, 17))
    np.testing.assert_allclose(built.logits(prompts), built.expected(prompts), rtol=0, atol=2e-4)
    assert set(files) < set(built.model.source["files"])
    assert "model.safetensors.index.json" in built.model.source["files"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc to know the peak of memory")
def test_the_width_of_8b_is_prepared_in_little_memory(tmp_path: Path) -> None:
    """One of its layers: no more than the source's size and 2 GB, on a process of its own."""
    source_bytes = make_sparse_checkpoint(tmp_path / "source", replace(SHAPE_8B, num_layers=1))
    command = [sys.executable, "-c", PREPARE, str(tmp_path / "source"), str(tmp_path / "model")]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    peak_bytes = int(answer.stdout)
    print(f"source {source_bytes / 1e9:.2f} GB, peak {peak_bytes / 1e9:.2f} GB")
    assert peak_bytes < source_bytes + ROOM_BYTES
    model = PreparedModel.load(tmp_path / "model")
    assert model.architecture["num_layers"] == 1
    graph = onnx.load(tmp_path / "model" / "model.onnx", load_external_data=False).graph
    assert [list(tensor.dims) for tensor in graph.initializer if tensor.name == "head"] == [
        [4096, 2]
    ]
    for path in [*tmp_path.glob("*/*")]:
        path.unlink()
