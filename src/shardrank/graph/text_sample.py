"""Some pairs of text that show what flows through a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shardrank.engine.pair_scores import parse_pairs
from shardrank.engine.prompt import PromptBuilder
from shardrank.errors import InputError
from shardrank.types import Prompts

BUILT_IN = "built-in"
_SHARDS = ("en-0.parquet", "world-0.parquet")
# Enough for every channel to be met loud, and short enough to score in minutes.
_MAX_PAIRS = 64
_MAX_ROWS = 4096


@dataclass(frozen=True, slots=True)
class TextSample:
    """Pairs of a query and a document.

    name: of the file, or "built-in". sha256: of the pairs, whatever file they came from.
    """

    name: str
    pairs: tuple[tuple[str, str], ...]

    @staticmethod
    def load(path: Path | None) -> TextSample:
        """Up to 64 pairs, evenly taken from a file; None for the candidates of the demo.

        path: JSON lines {"query", "document"}, or Parquet as for a job: query with candidates, or
            query with text. Raises InputError if it is neither or has no pairs.
        """
        if path is None:
            folder = Path(str(resources.files("shardrank"))) / "demo" / "candidates"
            pairs = [pair for name in _SHARDS for pair in _spread(_parquet_pairs(folder / name), 2)]
            return TextSample(BUILT_IN, tuple(pairs))
        found = _parquet_pairs(path) if path.suffix == ".parquet" else _json_pairs(path)
        if not found:
            raise InputError(f"{path} holds no pairs of a query and a document; give another file.")
        return TextSample(path.name, tuple(_spread(found, 1)))

    @property
    def sha256(self) -> str:
        """Hex digest of the pairs as JSON."""
        return hashlib.sha256(json.dumps(self.pairs).encode()).hexdigest()

    def thinned(self, num_pairs: int) -> TextSample:
        """So many of the pairs, evenly spaced; all where there are no more."""
        wanted = min(num_pairs, len(self.pairs))
        places = [place * len(self.pairs) // wanted for place in range(wanted)]
        return TextSample(self.name, tuple(self.pairs[place] for place in places))

    def prompts(self, builder: PromptBuilder) -> Prompts:
        """One prompt a pair; those whose query leaves no room for a document are left out.

        Raises InputError if none is left.
        """
        queries = list(dict.fromkeys(query for query, _ in self.pairs))
        places = {query: place for place, query in enumerate(queries)}
        index = np.array([places[query] for query, _ in self.pairs], np.int64)
        kept = np.flatnonzero(~builder.build_many(queries, [], index[:0]).too_long[index])
        if not len(kept):
            raise InputError(
                f"every query of the sample {self.name} is too long for a prompt of "
                f"{builder.max_tokens} tokens; give another sample."
            )
        documents = [self.pairs[place][1] for place in kept]
        return builder.build_many(queries, documents, index[kept]).prompts


def _spread(pairs: list[tuple[str, str]], num_files: int) -> list[tuple[str, str]]:
    """At most an equal share of the pairs, evenly spaced."""
    wanted = min(len(pairs), _MAX_PAIRS // num_files)
    return [pairs[place * len(pairs) // wanted] for place in range(wanted)]


def _json_pairs(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; give another file.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8.") from error
    return [(pair.query, pair.document) for pair in parse_pairs(lines, path.name)]


def _parquet_pairs(path: Path) -> list[tuple[str, str]]:
    try:
        file = pq.ParquetFile(path)
        names = set(file.schema_arrow.names)
        columns = [name for name in ("query", "candidates", "text") if name in names]
        batch = next(file.iter_batches(batch_size=_MAX_ROWS, columns=columns), None)
        rows = batch.to_pylist() if batch is not None else []
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(
            f"{path} cannot be read as Parquet: {error}; give another file."
        ) from error
    if "query" not in names or len(columns) < 2:
        raise InputError(
            f"{path} has the columns {', '.join(sorted(names))}; a sample has query and text, or "
            f"query and candidates with a field text."
        )
    return [pair for row in rows for pair in _row_pairs(row)]


def _row_pairs(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    documents = row.get("candidates", [row])
    for document in documents or []:
        text = document.get("text") if isinstance(document, dict) else None
        if isinstance(row["query"], str) and isinstance(text, str):
            yield row["query"], text
