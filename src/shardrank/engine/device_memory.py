"""What ONNX Runtime says when a GPU has no room, and what is worth trying then."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import onnxruntime

_Result = TypeVar("_Result")

# What the arena, CUDA and cuBLAS say; none of them has an exception of its own.
_NO_MEMORY = re.compile(
    r"failed to allocate memory|out of memory|ALLOC_FAILED|available memory of", re.IGNORECASE
)


class OutOfDeviceMemoryError(Exception):
    """A run needs more memory than the device has left; a smaller one may fit."""


def run_with_room(call: Callable[[onnxruntime.RunOptions | None], _Result]) -> _Result:
    """Run; where the device has no room, once more in an arena that is put together again.

    call: runs the session with the options it is given.

    What is free may be in pieces. Whatever comes of the second run, its end gives all of them back
    to the device, and smaller runs find that whole. Raises OutOfDeviceMemoryError.
    """
    try:
        return _run(call, None)
    except OutOfDeviceMemoryError:
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "gpu:0")
        return _run(call, options)


def _run(
    call: Callable[[onnxruntime.RunOptions | None], _Result],
    options: onnxruntime.RunOptions | None,
) -> _Result:
    try:
        return call(options)
    except Exception as error:  # onnxruntime's errors have no common base
        if _NO_MEMORY.search(str(error)):
            raise OutOfDeviceMemoryError(str(error).splitlines()[0]) from error
        raise
