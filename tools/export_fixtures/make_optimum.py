"""Export a checkpoint with optimum-onnx: unfused attention, position_ids, with and without past.

python make_optimum.py CHECKPOINT OUTPUT SCRATCH

OUTPUT gets the exports that are fixtures, SCRATCH the one that is only quantized further. Runs in
the environment of requirements-optimum.txt.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

KEPT = ("config.json", "model.onnx")


@dataclass(frozen=True)
class Export:
    """One call of `optimum-cli export onnx`.

    scratch: not a fixture itself.
    """

    name: str
    task: str
    options: tuple[str, ...] = ()
    scratch: bool = False


EXPORTS = (
    # A tied head is written as MatMul(hidden, Transpose(embedding)).
    Export("optimum", "text-generation-with-past"),
    Export("optimum_fp16_no_past", "text-generation", ("--dtype", "fp16")),
    # Without post-processing the head's weight is an initializer of its own: what a quantizer sees
    # in an export that was constant-folded, or made where accelerate is not installed.
    Export("optimum_folded", "text-generation-with-past", ("--no-post-process",), scratch=True),
)


def export(what: Export, checkpoint: Path, output: Path) -> None:
    """Run the exporter, offline, in a scratch folder and keep the files of KEPT."""
    with tempfile.TemporaryDirectory() as scratch:
        cli = Path(sys.executable).with_name("optimum-cli")
        command = [str(cli), "export", "onnx", "-m", str(checkpoint), "--task", what.task]
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        subprocess.run([*command, *what.options, scratch], check=True, env=environment)
        folder = output / what.name
        folder.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            (folder / name).write_bytes((Path(scratch) / name).read_bytes())


def main() -> None:
    """Read the command line and write every export."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("scratch", type=Path)
    arguments = parser.parse_args()
    for what in EXPORTS:
        output = arguments.scratch if what.scratch else arguments.output
        export(what, arguments.checkpoint.resolve(), output)


if __name__ == "__main__":
    main()
