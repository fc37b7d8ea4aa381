"""The shape of Qwen3-Reranker-0.6B is prepared within a laptop's time and memory."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from graph_models import pad, random_prompts
from oracles.checkpoints import REAL_SHAPE, make_random_checkpoint
from shardrank.engine.model import PreparedModel
from shardrank.engine.onnx_session import open_session

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc to know the peak of memory"),
]

MAX_SECONDS = 60
# Of memory: weights pass through in pieces, so it is far below the checkpoint's 1.2 GB; a model of
# integers is also run once, with its weights mapped.
MAX_BYTES = {"w8a8": 2.0e9, "fp32": 600e6}
MAX_FILE_BYTES = {"w8a8": 0.9e9, "fp32": 2.2e9}

# Prints its own peak: what resource says of a child includes the memory of the process it is
# forked from.
PREPARE = """
import sys
from pathlib import Path
from shardrank.graph.prepare import prepare
prepare(Path(sys.argv[1]), Path(sys.argv[2]), precision=sys.argv[3])
status = Path("/proc/self/status").read_text().split()
print(int(status[status.index("VmHWM:") + 1]) * 1024)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Room for four gigabytes, given back at the end."""
    yield tmp_path
    for path in tmp_path.glob("*/*"):
        path.unlink()


@pytest.mark.parametrize("precision", ["w8a8", "fp32"])
def test_the_0_6b_shape_is_prepared_and_scores(folder: Path, precision: str) -> None:
    source = make_random_checkpoint(folder / "checkpoint", REAL_SHAPE)
    start = time.perf_counter()
    command = [sys.executable, "-c", PREPARE, str(source), str(folder / "model"), precision]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, peak_bytes = time.perf_counter() - start, int(answer.stdout)
    print(f"{seconds:.1f} s, {peak_bytes / 2**30:.2f} GiB")
    assert seconds < MAX_SECONDS
    assert peak_bytes < MAX_BYTES[precision]

    model = PreparedModel.load(folder / "model")
    assert (folder / "model" / "model.onnx").stat().st_size < 10_000_000
    num_bytes = (folder / "model" / "model.onnx.data").stat().st_size
    assert num_bytes < MAX_FILE_BYTES[precision]
    session = open_session(folder / "model", model)
    prompts = random_prompts((40, 130, 75))
    mixed = session.run(*pad(prompts, model.pad_id))
    alone = np.concatenate([session.run(*pad([prompt], model.pad_id)) for prompt in prompts])
    assert np.isfinite(mixed).all()
    np.testing.assert_array_equal(mixed, alone)
