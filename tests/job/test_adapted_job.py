"""Somebody else's export, prepared, goes through a whole job in mixed left-padded batches.

The two stand for the files of the model card: model_q4.onnx (MatMulNBits, attention fused to
GroupQueryAttention) and model_quantized.onnx (dynamic int8).
"""

import numpy as np
import pytest

from exports import adapt_export
from shardrank import Reranker
from shardrank.engine.ranking import sigmoid
from tables import read_output, row, write_nested

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.ray]

# One scale for the whole batch: as the export itself moves in a batch (tests/graph/exports).
DYNAMIC_CHANGE = 1.0


@pytest.mark.parametrize(
    ("name", "tolerance"), [("genai_q4", 0.0), ("optimum_quantized", DYNAMIC_CHANGE)]
)
def test_an_adapted_export_reranks_a_whole_input(
    folders, tmp_path, name: str, tolerance: float
) -> None:
    adapted = adapt_export(name, tmp_path)
    write_nested(
        folders.input / "a.parquet", [row(number, 6) for number in range(8)], row_group_size=3
    )
    settings = (f"model.path={adapted.folder}", "prompt.max_tokens=256")
    result = folders.run(*settings)
    found = read_output(folders.output)
    assert (result.counts.pairs_in, result.counts.pairs_out) == (48, 48)
    assert folders.problems() == ()

    alone = Reranker(adapted.folder, max_tokens=256)
    lengths = set()
    for each in found:
        log_odds = np.array([c["log_odds"] for c in each["candidates"]], np.float32)
        assert (np.diff(log_odds) <= 0).all()
        assert [c["score"] for c in each["candidates"]] == sigmoid(log_odds).tolist()
        for candidate in each["candidates"]:
            expected = alone.score([(each["query"], candidate["text"])])[0]
            assert abs(candidate["log_odds"] - expected) <= tolerance
            lengths.add(candidate["num_tokens"])
    assert len(lengths) > 5, "a batch of one length would prove nothing about padding"

    sorted(folders.output.glob("*.parquet"))[1].unlink()
    (folders.output / "_SUCCESS").unlink()
    assert folders.run(*settings).num_units_done == 1
    assert read_output(folders.output) == found
