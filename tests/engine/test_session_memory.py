"""What a session keeps of memory after long prompts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from oracles.checkpoints import Shape, make_random_checkpoint
from shardrank.graph.prepare import prepare

SCORE_LONG_THEN_SHORT = """
import sys
from pathlib import Path
import numpy as np
from shardrank import Reranker

def megabytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6

session = Reranker(sys.argv[1], threads=1).session
short, long = np.ones((1, 2), np.int64), np.ones((1, 2000), np.int64)
session.run(short, np.ones_like(short))
print(megabytes())
session.run(long, np.ones_like(long), session.extend(long))
print(megabytes())
session.run(short, np.ones_like(short))
print(megabytes())
"""


@pytest.mark.slow
def test_the_memory_of_a_long_prompt_is_given_back_with_the_next_one(tmp_path: Path) -> None:
    shape = Shape(num_layers=4, heads=8, kv_heads=8, head_dim=128)
    source = make_random_checkpoint(tmp_path / "checkpoint", shape)
    prepare(source, tmp_path / "model", precision="fp32", layout="prefix", max_tokens=4096)
    command = [sys.executable, "-c", SCORE_LONG_THEN_SHORT, str(tmp_path / "model")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    before, long, after = map(float, printed.split())
    assert long - before > 100
    assert after - before < 0.4 * (long - before)
