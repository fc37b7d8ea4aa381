"""The rooms of the house: which may know of which."""

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parent.parent


def test_imports_point_down() -> None:
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


def test_source_files_stay_small() -> None:
    long_files = {
        str(path.relative_to(PROJECT)): num_lines
        for path in (PROJECT / "src").rglob("*.py")
        if (num_lines := len(path.read_text().splitlines())) > 320
    }
    assert long_files == {}


def test_jobs_hold_no_logic() -> None:
    for path in (PROJECT / "jobs").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 12, path
