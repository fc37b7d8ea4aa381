"""The README's first command on the newest interpreter that is known of, where it is found."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent


def interpreter(version: str) -> str | None:
    """A Python of this version: on the path, or one that pyenv keeps beside it."""
    found = [shutil.which(f"python{version}")]
    kept = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    found += [str(path) for path in sorted(kept.glob(f"{version}.*/bin/python{version}"))]
    for path in filter(None, found):
        if subprocess.run([path, "-V"], capture_output=True, check=False).returncode == 0:
            return path
    return None


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.13"])
def test_the_demo_installs_and_runs(version: str, tmp_path: Path) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} here")
    command = [
        "make",
        "--directory",
        str(PROJECT),
        "demo",
        f"PYTHON={python}",
        f"VENV={tmp_path}/v",
    ]
    demo = subprocess.run(
        [*command, f"DEMO_FLAGS=--output {tmp_path}/out"],
        capture_output=True,
        text=True,
        check=False,
        timeout=580,
    )
    assert demo.returncode == 0, demo.stdout[-2000:] + demo.stderr[-2000:]
    assert (tmp_path / "out" / "_SUCCESS").exists()
    assert "nDCG@10" in demo.stdout
