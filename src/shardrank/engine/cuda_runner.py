"""Runs of a `paged` graph on an NVIDIA GPU."""

from __future__ import annotations

import queue
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime

from shardrank.engine.device_memory import OutOfDeviceMemoryError, run_with_room
from shardrank.engine.layouts import PAGED_CACHES, PAGED_INPUTS
from shardrank.engine.packing import PackedRun
from shardrank.types import Float32Array

# onnx.TensorProto's numbers, by the type of the graph's inputs: workers have no onnx.
_ELEMENT_TYPES = {"tensor(float16)": 10, "tensor(bfloat16)": 16}


class CudaRunner:
    """One session and the scratch caches that its runs work in.

    session: of a `paged` graph, on CUDA. max_cache_tokens: what the blocks of any run hold.
    num_caches: how many runs the device works on at once. One is enough as long as a run takes much
        longer than to start it; each more takes the memory of a run.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        max_cache_tokens: int,
        num_caches: int = 1,
    ) -> None:
        self._session = session
        self._num_caches = num_caches
        inputs = {node.name: node for node in session.get_inputs()}
        cache = inputs[PAGED_CACHES[0]]
        self._element_type = _ELEMENT_TYPES[cache.type]
        self._heads_and_size = [int(axis) for axis in cache.shape[2:]]
        self._max_cache_tokens = max_cache_tokens
        self._caches: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()
        # Zeros: what a kernel reads beyond a prompt's end is masked, but only if it is a number.
        # Numpy has no bfloat16, and a float16 of zeros is one of as many bytes.
        zeros = np.zeros((max_cache_tokens, *self._heads_and_size), np.float16)
        for _ in range(num_caches):
            self._caches.put(
                {
                    name: onnxruntime.OrtValue.ortvalue_from_numpy(zeros, "cuda", 0)
                    for name in PAGED_CACHES
                }
            )

    @property
    def num_at_once(self) -> int:
        """As many as there are caches."""
        return self._num_caches

    def run(self, run: PackedRun) -> Float32Array:
        """Logits (yes, no) of every row, float32; waits for a cache.

        Raises OutOfDeviceMemoryError.
        """
        if run.num_blocks * run.block_size > self._max_cache_tokens:
            raise OutOfDeviceMemoryError(
                f"{run.num_blocks} blocks of {run.block_size} tokens, and a cache of "
                f"{self._max_cache_tokens} tokens"
            )
        caches = self._caches.get()
        try:
            binding = self._bind(run, caches)
            run_with_room(lambda options: self._session.run_with_iobinding(binding, options))
        finally:
            self._caches.put(caches)
        logits: Float32Array = binding.copy_outputs_to_cpu()[0]
        return logits

    def _bind(self, run: PackedRun, caches: Mapping[str, Any]) -> Any:
        binding = self._session.io_binding()
        for name in PAGED_INPUTS:
            binding.bind_cpu_input(name, np.ascontiguousarray(getattr(run, name)))
        # The same memory, whatever size its blocks have in this run.
        num_blocks = self._max_cache_tokens // run.block_size
        shape = [num_blocks, run.block_size, *self._heads_and_size]
        for name, cache in caches.items():
            binding.bind_input(name, "cuda", 0, self._element_type, shape, cache.data_ptr())
        binding.bind_output("logits", "cpu")
        return binding
