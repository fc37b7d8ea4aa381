"""What the GPU of this process is, and how much of its memory is free."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from shardrank.errors import ModelError

_NAME_BYTES = 256
# Of cuDeviceGetAttribute: CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
_MAJOR, _MINOR = 75, 76


@dataclass(frozen=True, slots=True)
class CudaDevice:
    """name: as the driver has it ("NVIDIA H200"). total_bytes, free_bytes: of its memory.

    compute_capability: major and minor, 9 and 0 for an H200.
    """

    name: str
    compute_capability: tuple[int, int]
    total_bytes: int
    free_bytes: int


def read_cuda_device() -> CudaDevice:
    """The first GPU that this process may use, as of now.

    Asks the driver itself (CUDA driver API), which heeds CUDA_VISIBLE_DEVICES, and which is there
    wherever CUDA works. Raises ModelError if it is not.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise ModelError(
            f"the NVIDIA driver cannot be loaded ({error}); see that `nvidia-smi` shows a GPU."
        ) from error
    device, context = ctypes.c_int(), ctypes.c_void_p()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _call(driver.cuInit, 0)
    _call(driver.cuDeviceGet, ctypes.byref(device), 0)
    _call(driver.cuDeviceGetName, name, _NAME_BYTES, device)
    major, minor = ctypes.c_int(), ctypes.c_int()
    _call(driver.cuDeviceGetAttribute, ctypes.byref(major), _MAJOR, device)
    _call(driver.cuDeviceGetAttribute, ctypes.byref(minor), _MINOR, device)
    # The context that everything else in the process uses too; it stays.
    _call(driver.cuDevicePrimaryCtxRetain, ctypes.byref(context), device)
    _call(driver.cuCtxPushCurrent_v2, context)
    _call(driver.cuMemGetInfo_v2, ctypes.byref(free), ctypes.byref(total))
    _call(driver.cuCtxPopCurrent_v2, ctypes.byref(context))
    capability = major.value, minor.value
    return CudaDevice(name.value.decode(errors="replace"), capability, total.value, free.value)


def _call(function: Any, *arguments: Any) -> None:
    code = function(*arguments)
    if code:
        raise ModelError(
            f"the NVIDIA driver answered {function.__name__} with error {code}; see that "
            f"`nvidia-smi` shows a GPU with memory to spare."
        )
