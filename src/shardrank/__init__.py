"""An offline reranker: Parquet shards in, every pair scored by Qwen3-Reranker, Parquet back.

    >>> import shardrank
    >>> shardrank.Reranker("demo").rank("What do bees eat?", ["Rooks move straight.", "Nectar."])

Names are loaded when they are first used: `import shardrank` itself loads neither ray nor
onnxruntime.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Reranker": "shardrank.engine.reranker",
    "RankedDocument": "shardrank.engine.reranker",
    "load_config": "shardrank.config",
    "rerank": "shardrank.job.rerank",
}

__all__ = ["RankedDocument", "Reranker", "__version__", "load_config", "rerank"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'shardrank' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
