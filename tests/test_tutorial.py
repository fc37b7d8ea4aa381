"""The tutorial runs as it stands, in an empty folder, and prints what it says."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from commands import environment
from documents import PROJECT, Block, blocks_of

pytestmark = pytest.mark.ray


def test_the_tutorial_runs_and_prints_what_it_says(tmp_path: Path) -> None:
    page = [block for block in blocks_of(PROJECT / "docs" / "tutorial.md") if not later(block)]
    for block in page:
        named = re.match(r"# ([\w.]+)\n", block.text)
        if named:
            (tmp_path / named[1]).write_text(block.text)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = "set -eu\n" + "".join(block.text for block in page if block.language == "sh")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        ["bash", "-c", script.replace("5000", port)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(PATH=path),
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=400)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, printed[-3000:]
    lines = [shape(line) for line in printed.splitlines()]
    for block in page:
        if block.language == "text":
            for line in block.text.splitlines():
                assert shape(line) in lines, f"{block}: {line}\n{printed[-3000:]}"


def later(block: Block) -> bool:
    """True for what needs a real model and a real cluster."""
    return "Qwen/" in block.text


def shape(line: str) -> str:
    """A line with its measures masked: sums in floating point differ between machines."""
    return re.sub(r"[+-]?\d+\.\d+", "#", line.rstrip())
