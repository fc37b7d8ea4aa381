"""Both oracles, transformers and numpy, and the graph agree (needs torch and transformers)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graph_models import Built, random_prompts

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.slow

LENGTHS = (1, 2, 7, 33, 128, 257, 600)


@pytest.fixture(scope="module")
def prompts() -> list[np.ndarray]:
    return random_prompts(LENGTHS)


def transformers_logits(built: Built, prompts: list[np.ndarray]) -> np.ndarray:
    """(yes, no) at each prompt's last token, float32 [num_prompts, 2]."""
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        built.source, dtype=torch.float32
    )
    ids = [built.model.yes_id, built.model.no_id]
    with torch.inference_mode():
        logits = [model(torch.tensor(prompt)[None]).logits[0, -1, ids] for prompt in prompts]
    return torch.stack(logits).numpy()


def test_the_graph_says_what_transformers_says(built: Built, prompts: list[np.ndarray]) -> None:
    expected = transformers_logits(built, prompts)
    np.testing.assert_allclose(built.logits(prompts), expected, rtol=0, atol=1e-4)


def test_the_numpy_model_says_what_transformers_says(
    built: Built, prompts: list[np.ndarray]
) -> None:
    expected = transformers_logits(built, prompts)
    np.testing.assert_allclose(built.expected(prompts), expected, rtol=0, atol=1e-4)
