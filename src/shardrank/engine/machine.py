"""What this machine can do."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

# What decides which kernel is taken, best first: the flag in cpuinfo, and our name.
_INSTRUCTION_SETS = (
    ("amx_int8", "amx_int8"),
    ("avx512_bf16", "avx512_bf16"),
    ("avx512_vnni", "avx512_vnni"),
    ("avx_vnni", "avx_vnni"),
    ("avx512f", "avx512"),
    ("avx2", "avx2"),
    ("i8mm", "neon_i8mm"),
    ("asimddp", "neon_dotprod"),
    ("asimd", "neon"),
)


def num_cores() -> int:
    """Cores that this process may use, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def instruction_set(cpuinfo: str) -> str | None:
    """The best instruction set in the text of /proc/cpuinfo; None if it names none we know."""
    lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, flags=re.MULTILINE)
    flags = set(lines[0].split()) if lines else set()
    if computes_bfloat16_slowly(cpuinfo):
        flags.discard("avx512_bf16")
    return next((name for flag, name in _INSTRUCTION_SETS if flag in flags), None)


def computes_bfloat16_slowly(cpuinfo: str) -> bool:
    """Whether the processor's own products of bfloat16 are left alone.

    Intel's do half as many of them as of float32 (docs/decisions/023-integer-products.md).
    """
    return "GenuineIntel" in cpuinfo


def read_processor() -> str:
    """What tells two kinds of processors apart: maker, model and flags in /proc/cpuinfo."""
    path = Path("/proc/cpuinfo")
    first = path.read_text(errors="replace").split("\n\n")[0] if path.is_file() else ""
    told = re.findall(
        r"^(?:vendor_id|model name|flags|CPU part|Features)\s*:.*$", first, flags=re.MULTILINE
    )
    return "\n".join([platform.machine(), *told])


def read_instruction_set() -> str:
    """The instruction set of this machine; its architecture where /proc/cpuinfo tells nothing."""
    path = Path("/proc/cpuinfo")
    found = instruction_set(path.read_text(errors="replace")) if path.is_file() else None
    return found or platform.machine()
