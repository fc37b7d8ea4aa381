"""What transformers says of the same prompts, where torch and transformers are installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from shardrank.engine.model import PreparedModel
from shardrank.errors import ModelError
from shardrank.types import Float32Array, Prompts


def missing_packages() -> list[str]:
    """Packages that a comparison needs and that are not installed."""
    return [name for name in ("torch", "transformers") if find_spec(name) is None]


def reference_logits(checkpoint: Path, model: PreparedModel, prompts: Prompts) -> Float32Array:
    """Logits (yes, no) by transformers in fp32, prompt by prompt, float32 [num_prompts, 2].

    Needs torch and transformers. Raises ModelError if the checkpoint cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        decoder = AutoModelForCausalLM.from_pretrained(checkpoint, local_files_only=True)
    except Exception as error:  # transformers' errors have no common base
        raise ModelError(
            f"{checkpoint} cannot be loaded by transformers ({error}); give --reference the "
            f"checkpoint that the model was prepared from."
        ) from error
    decoder = decoder.float().eval()
    answers = [model.yes_id, model.no_id]
    rows = []
    with torch.inference_mode():
        for index in range(len(prompts)):
            ids = torch.tensor(prompts[index].astype(np.int64))[None]
            rows.append(decoder(ids).logits[0, -1, answers].numpy())
    return np.stack(rows)
