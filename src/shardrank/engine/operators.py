"""shardrank's own operators for ONNX Runtime on CUDA: compiled where they run, once."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from shardrank.errors import ModelError

SOURCES = Path(__file__).parent / "native"
"""Where the operators' source lies, in C and CUDA C++."""
_KERNELS, _OPERATORS = "cuda_kernels.cu", "cuda_operators.c"
_COMPILERS = ("cc", "gcc", "clang")
_NVRTC = ("libnvrtc.so.13", "libnvrtc.so.12")
_OTHER_WAY = "or prepare the model with --layout padded, which needs neither and is slower"


def build_library(compute_capability: tuple[int, int], cache: Path | None = None) -> Path:
    """The shared library to register with a session; compiled if it is not in the cache yet.

    compute_capability: of the GPU, major and minor. cache: a folder; None for
    $XDG_CACHE_HOME/shardrank, or ~/.cache/shardrank.

    The kernels go through NVRTC (of onnxruntime-gpu[cuda], or of a CUDA that is installed), the
    rest through the C compiler ($CC, cc, gcc or clang). A second or two, once for a machine;
    processes that build it at once do not disturb each other.

    Raises ModelError where one of the two is missing or fails.
    """
    digest = hashlib.sha256()
    for name in (_KERNELS, _OPERATORS):
        digest.update((SOURCES / name).read_bytes())
    major, minor = compute_capability
    folder = cache or _cache()
    path = folder / f"operators-sm_{major}{minor}-{digest.hexdigest()[:16]}.so"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        code = Path(temporary) / "kernels.cubin"
        code.write_bytes(compile_kernels(f"sm_{major}{minor}"))
        made = Path(temporary) / path.name
        compile_operators(code, made)
        made.replace(path)
    return path


def compile_kernels(architecture: str) -> bytes:
    """Machine code of the kernels for an architecture ("sm_90").

    Raises ModelError if NVRTC is not there, or does not know the architecture.
    """
    library = find_nvrtc()
    if library is None:
        raise ModelError(
            f"the layout 'fused' is compiled by NVRTC ({_NVRTC[0]}), which is not there; run `pip "
            f'install "onnxruntime-gpu[cuda]"`, {_OTHER_WAY}.'
        )
    source = (SOURCES / _KERNELS).read_bytes()
    program = ctypes.c_void_p()
    options = (ctypes.c_char_p * 2)(f"--gpu-architecture={architecture}".encode(), b"--std=c++17")
    _call(
        library.nvrtcCreateProgram, ctypes.byref(program), source, _KERNELS.encode(), 0, None, None
    )
    try:
        code = library.nvrtcCompileProgram(program, len(options), options)
        if code:
            size = ctypes.c_size_t()
            _call(library.nvrtcGetProgramLogSize, program, ctypes.byref(size))
            log = ctypes.create_string_buffer(max(1, size.value))
            _call(library.nvrtcGetProgramLog, program, log)
            raise ModelError(
                f"NVRTC cannot compile the kernels for {architecture} (error {code}): "
                f"{log.value.decode(errors='replace').strip()[:500]}; install an NVRTC that knows "
                f"this GPU, {_OTHER_WAY}."
            )
        size = ctypes.c_size_t()
        _call(library.nvrtcGetCUBINSize, program, ctypes.byref(size))
        cubin = ctypes.create_string_buffer(size.value)
        _call(library.nvrtcGetCUBIN, program, cubin)
        return cubin.raw
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def compile_operators(code: Path, target: Path) -> None:
    """The library from its source and the kernels' machine code, a file.

    Raises ModelError without a C compiler, or where that fails.
    """
    compiler = os.environ.get("CC") or next(filter(shutil.which, _COMPILERS), None)
    if compiler is None:
        raise ModelError(
            f"the layout 'fused' is compiled by a C compiler, and neither $CC nor "
            f"{', '.join(_COMPILERS)} is there; install gcc, {_OTHER_WAY}."
        )
    command = [
        *compiler.split(), "-std=c11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden",
        f'-DCUBIN="{code}"', str(SOURCES / _OPERATORS), "-o", str(target), "-ldl", "-lpthread",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ModelError(f"the C compiler {compiler!r} cannot be started ({error}).") from error
    if done.returncode:
        raise ModelError(
            f"{compiler} cannot compile the operators: {done.stderr.strip()[:500]}; give another "
            f"compiler in $CC, {_OTHER_WAY}."
        )


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "shardrank"


def find_nvrtc() -> Any | None:
    """NVRTC as the linker finds it, or from the packages of NVIDIA beside this one."""
    beside = [
        path
        for entry in sys.path
        for name in _NVRTC
        for path in sorted(Path(entry or ".").glob(f"nvidia/*/lib/{name}"))
    ]
    for name in (*_NVRTC, *map(str, beside)):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _call(function: Any, *arguments: Any) -> None:
    code = function(*arguments)
    if code:
        raise ModelError(f"NVRTC answered {function.__name__} with error {code}; {_OTHER_WAY}.")
