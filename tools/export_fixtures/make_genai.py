"""Export checkpoints with onnxruntime-genai's model builder.

python make_genai.py TIED UNTIED OUTPUT

TIED and UNTIED are checkpoint folders of make_checkpoint.py. OUTPUT gets one folder for each
export. Runs in the environment of requirements-genai.txt.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

KEPT = ("genai_config.json", "model.onnx", "model.onnx.data")


@dataclass(frozen=True)
class Export:
    """One call of the builder.

    provider: the execution provider that the graph is written for; all are built on a CPU.
    options: the builder's extra options, as KEY=VALUE.
    """

    name: str
    precision: str
    provider: str = "cpu"
    options: tuple[str, ...] = ()
    tied: bool = True

    def arguments(self) -> list[str]:
        """The builder's arguments but for its folders."""
        found = ["-p", self.precision, "-e", self.provider]
        return [*found, "--extra_options", *self.options] if self.options else found


EXPORTS = (
    Export("genai_fp32", "fp32"),
    Export("genai_int4", "int4"),
    Export("genai_int4_last_token", "int4", options=("prune_lm_head=true",)),
    # Asymmetric and tied together make a graph that does not load (0.18.0), hence untied.
    Export("genai_int4_zero_points", "int4", options=("is_symmetric=false",), tied=False),
    Export("genai_int4_webgpu", "int4", "webgpu", options=("use_webgpu_fp32=true",)),
    Export("genai_fp16_position_ids", "fp16", "dml"),
)


def export(what: Export, checkpoint: Path, output: Path) -> None:
    """Run the builder in a scratch folder and keep the files of KEPT."""
    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch) / "export"
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
        command += ["-m", str(checkpoint), "-o", str(raw), "-c", str(Path(scratch) / "cache")]
        subprocess.run([*command, *what.arguments()], check=True)
        folder = output / what.name
        folder.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            (folder / name).write_bytes((raw / name).read_bytes())


def main() -> None:
    """Read the command line and write every export."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tied", type=Path)
    parser.add_argument("untied", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    for what in EXPORTS:
        checkpoint = arguments.tied if what.tied else arguments.untied
        export(what, checkpoint.resolve(), arguments.output)


if __name__ == "__main__":
    main()
