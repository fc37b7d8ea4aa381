"""How long it takes to prepare a model of the shape of Qwen3-Reranker-0.6B, and what it costs.

    python bench/prepare.py [--precision w8a8]... [--folder DIR]

Writes a random bfloat16 checkpoint of 1.2 GB into a temporary folder, prepares it in every
precision in a process of its own, and prints rows for RESULTS.md: seconds of the whole process,
the peak of its memory, and the size of the files. Needs Linux (it reads /proc) and 6 GB of disk.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from results import make_parser, make_row

from shardrank.graph.precision import PRECISIONS

# The generator is the tests' own.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from oracles.checkpoints import REAL_SHAPE, make_random_checkpoint

# Prints its own peak: what the system says of a child includes the memory of the process that it
# was forked from.
_PREPARE = """
import sys
from pathlib import Path
from shardrank.graph.prepare import prepare
prepare(Path(sys.argv[1]), Path(sys.argv[2]), precision=sys.argv[3])
status = Path("/proc/self/status").read_text().split()
print(int(status[status.index("VmHWM:") + 1]) * 1024)
"""


def measure(source: Path, output: Path, precision: str) -> str:
    """Prepare once and say what it took."""
    start = time.perf_counter()
    command = [sys.executable, "-c", _PREPARE, str(source), str(output), precision]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    num_bytes = sum(path.stat().st_size for path in output.iterdir())
    return (
        f"{precision}: {seconds:.1f} s, peak memory {int(answer.stdout) / 1e9:.2f} GB, files "
        f"{num_bytes / 1e9:.2f} GB"
    )


def main() -> None:
    """Parse, make the checkpoint, measure."""
    parser = make_parser(__doc__)
    parser.add_argument("--precision", action="append", choices=PRECISIONS)
    parser.add_argument("--folder", help="Where the temporary folder is made.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        source = make_random_checkpoint(Path(folder) / "checkpoint", REAL_SHAPE)
        for precision in arguments.precision or PRECISIONS:
            output = Path(folder) / precision
            figures = measure(source, output, precision)
            command = f"bench/prepare.py --precision {precision}"
            print(make_row(command, figures, ("onnxruntime", "numpy")), flush=True)
            shutil.rmtree(output)


if __name__ == "__main__":
    main()
