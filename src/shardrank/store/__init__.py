"""Bytes in, bytes out, exactly once: fsspec and pyarrow, no ray, no onnxruntime."""
