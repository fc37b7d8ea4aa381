"""The command line as a user types it, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SHARDRANK = [sys.executable, "-m", "shardrank"]


def environment(**variables: str) -> dict[str, str]:
    """This process's environment, without a Ray cluster that it may point at."""
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return kept | variables


def shardrank(
    *arguments: str | Path, seconds: float = 300.0, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*SHARDRANK, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
        env=environment(**variables),
    )


def start_shardrank(*arguments: str | Path, **variables: str) -> subprocess.Popen[str]:
    """Start a command in a process group of its own."""
    return subprocess.Popen(
        [*SHARDRANK, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(**variables),
        start_new_session=True,
    )
