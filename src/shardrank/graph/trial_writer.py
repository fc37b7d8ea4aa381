"""A graph with inputs and outputs besides those of its layout, to look into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from shardrank.graph.writer import GraphWriter, Tensor


class TrialWriter(GraphWriter):
    """A GraphWriter whose graph also has `inputs` and `outputs`, which grow while it is built."""

    def __init__(self, folder: Path, *, external: bool) -> None:
        super().__init__(folder, external=external)
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []

    def __enter__(self) -> TrialWriter:
        return self

    def save(
        self,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Write model.onnx."""
        super().save([*inputs, *self.inputs], [*outputs, *self.outputs], metadata)
