"""shardrank's own operators for ONNX Runtime: compiled where they run, once."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shardrank.engine.cuda_device import read_cuda_device
from shardrank.engine.machine import computes_bfloat16_slowly, read_processor
from shardrank.errors import ModelError

SOURCES = Path(__file__).parent / "native"
"""Where the operators' source lies, in C and CUDA C++."""
_KERNELS, _CUDA, _CPU = "cuda_kernels.cu", "cuda_operators.c", "cpu_operators.c"
_X86 = ("x86_64", "AMD64")
_COMPILERS = ("cc", "gcc", "clang")
_NVRTC = ("libnvrtc.so.13", "libnvrtc.so.12")
_OTHER_WAY = "or prepare the model with --layout padded, which needs none and is slower"
_OTHER_CPU_WAY = "or prepare the model with --layout prefix, which needs none and is slower"
# Sums keep their order, and products may be added without being rounded before.
_CPU_OPTIONS = ("-O3", "-ffp-contract=fast", "-Wno-psabi")


def find_library(layout: str) -> Path | None:
    """What a session of this layout has to register; None where onnxruntime's own operators do.

    Raises ModelError as the two below, and if there is no GPU where the layout is for one.
    """
    if layout == "fused-prefix":
        return build_cpu_library()
    if layout == "fused":
        return build_library(read_cuda_device().compute_capability)
    return None


def build_library(compute_capability: tuple[int, int], cache: Path | None = None) -> Path:
    """The shared library to register with a session; compiled if it is not in the cache yet.

    compute_capability: of the GPU, major and minor. cache: a folder; None for
    $XDG_CACHE_HOME/shardrank, or ~/.cache/shardrank.

    The kernels go through NVRTC (of onnxruntime-gpu[cuda], or of a CUDA that is installed), the
    rest through the C compiler ($CC, cc, gcc or clang). A second or two, once for a machine;
    processes that build it at once do not disturb each other.

    Raises ModelError where one of the two is missing or fails.
    """
    major, minor = compute_capability
    architecture = f"sm_{major}{minor}"

    def make(target: Path) -> None:
        code = target.with_name("kernels.cubin")
        code.write_bytes(compile_kernels(architecture))
        compile_operators(code, target)

    digest = _digest()
    return _once(cache or _cache(), f"operators-{architecture}-{digest}.so", make)


def build_cpu_library(cache: Path | None = None, options: Sequence[str] | None = None) -> Path:
    """The same for the CPU: for the processor that is there, by the C compiler alone.

    options: of the compiler, in place of those for this processor. Raises ModelError as above.
    """
    processor = read_processor()
    if options is None:
        options = _options_for(processor)
    # A folder may be shared by machines whose processors differ.
    key = _digest(" ".join([*options, processor]))

    def make(target: Path) -> None:
        _compile(_CPU, target, [*_CPU_OPTIONS, *options], ["-lm", "-lpthread"], _OTHER_CPU_WAY)

    return _once(cache or _cache(), f"operators-cpu-{key}.so", make)


def _options_for(processor: str) -> Sequence[str]:
    """Of the compiler, for a processor as `read_processor` describes it."""
    if platform.machine() not in _X86:
        return ()
    without = ["-DWITHOUT_BFLOAT16"] if computes_bfloat16_slowly(processor) else []
    return ("-march=native", *without)


def _once(folder: Path, name: str, make: Callable[[Path], None]) -> Path:
    """The file of this name, made beside its place and renamed if it is not there."""
    path = folder / name
    if path.is_file():
        return path
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            made = Path(temporary) / name
            make(made)
            made.replace(path)
    except OSError as error:
        raise ModelError(
            f"the compiled operators cannot be kept in {folder} ({error.strerror or error}); set "
            f"$XDG_CACHE_HOME to a folder that this user alone may write."
        ) from error
    return path


def _digest(more: str = "") -> str:
    """Of all sources, so that another version of them is another file; and of what else counts."""
    digest = hashlib.sha256(more.encode())
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


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
    _compile(_CUDA, target, ["-O2", f'-DCUBIN="{code}"'], ["-ldl", "-lpthread"], _OTHER_WAY)


def suits_this_machine() -> bool:
    """Whether operators for CPUs can be built here, and multiply integers by its instructions."""
    return find_compiler() is not None and platform.machine() in _X86


def find_compiler() -> str | None:
    """$CC, or the first C compiler on the path."""
    return os.environ.get("CC") or next(filter(shutil.which, _COMPILERS), None)


def _compile(
    source: str, target: Path, options: Sequence[str], libraries: Sequence[str], other_way: str
) -> None:
    compiler = find_compiler()
    if compiler is None:
        raise ModelError(
            f"the operators of this layout are compiled by a C compiler, and neither $CC nor "
            f"{', '.join(_COMPILERS)} is there; install gcc, {other_way}."
        )
    command = [
        *compiler.split(), "-std=gnu11", "-fPIC", "-shared", "-fvisibility=hidden", *options,
        str(SOURCES / source), "-o", str(target), *libraries,
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ModelError(f"the C compiler {compiler!r} cannot be started ({error}).") from error
    if done.returncode:
        raise ModelError(
            f"{compiler} cannot compile the operators: {done.stderr.strip()[:500]}; give another "
            f"compiler in $CC, {other_way}."
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
