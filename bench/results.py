"""A row of RESULTS.md: what was measured, where, with what, and how to measure it again."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

COLUMNS = ("date", "commit", "machine", "versions", "command", "figures")


def make_row(command: str, figures: str, packages: Sequence[str]) -> str:
    """One Markdown row; packages: those whose versions matter."""
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    values = (
        f"{datetime.now(UTC):%Y-%m-%d}",
        commit(),
        machine(),
        versions,
        f"`{command}`",
        figures,
    )
    return f"| {' | '.join(values)} |"


def make_parser(text: str) -> argparse.ArgumentParser:
    """A parser whose help is all of a script's own text, as it stands there."""
    return argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def typed() -> str:
    """The command that was typed, with the last part only of each path."""
    words = [f"bench/{Path(sys.argv[0]).name}"]
    for word in sys.argv[1:]:
        key, sign, value = word.rpartition("=")
        words.append(f"{key}{sign}{Path(value).name}" if "/" in value else word)
    return shlex.join(words)


def commit() -> str:
    """The commit that is checked out, and whether files differ from it."""
    root = Path(__file__).parent
    git = ["git", "-C", str(root)]
    name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run([*git, "status", "--porcelain", "../src"], capture_output=True)
    if name.returncode:
        return "unknown"
    return name.stdout.strip() + ("+" if changed.stdout else "")


def machine() -> str:
    """The processor, the cores that this process may use, and the memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{_processor()}, {cores} cores, {gigabytes:.0f} GiB"


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
