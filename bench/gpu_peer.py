"""sentence-transformers' CrossEncoder on the same weights, in bfloat16: for bench/gpu.py."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

BATCH_SIZES = (32, 64, 128, 256)
ATTENTIONS = ("sdpa", "flash_attention_2")
# Letters that the tests' tokenizer never joins: a character is a token.
LETTERS = "abcdfghijklm"


def make_cross_encoder(source: Path, folder: Path, yes_id: int, no_id: int) -> Path:
    """The checkpoint as a classifier of one class, whose logit is the log-odds.

    So is Qwen3-Reranker converted for sentence-transformers: the one row of its head is that of
    yes less that of no.
    """
    import torch
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast
    from transformers import Qwen3ForSequenceClassification as Classifier

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(source / "tokenizer.json"), padding_side="left"
    )
    tokenizer.add_special_tokens({"pad_token": "<|endoftext|>"})
    config = AutoConfig.from_pretrained(source)
    config.num_labels = 1
    config.pad_token_id = tokenizer.pad_token_id
    decoder = AutoModel.from_pretrained(source, dtype=torch.bfloat16)
    model = Classifier(config).to(torch.bfloat16)
    model.model = decoder
    rows = decoder.embed_tokens.weight
    with torch.no_grad():
        model.score.weight.copy_(rows[yes_id : yes_id + 1] - rows[no_id : no_id + 1])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**written, "num_labels": 1}))
    return folder


def make_pairs(lengths: Sequence[int], num_shared: int) -> list[tuple[str, str]]:
    """Pairs of these lengths in tokens, the longest first, of random letters."""
    letters = random.Random(0)
    query = "".join(letters.choices(LETTERS, k=num_shared))
    return [
        (query, "".join(letters.choices(LETTERS, k=length - num_shared)))
        for length in sorted(lengths, reverse=True)
    ]


def measure(folder: Path, lengths: Sequence[int], device: str = "cuda") -> Iterator[str]:
    """Pairs a second, one line for each kind of attention and batch size that works."""
    import torch
    from sentence_transformers import CrossEncoder

    pairs = make_pairs(lengths, num_shared=min(71, min(lengths) - 1))
    for attention in ATTENTIONS:
        options = {"dtype": torch.bfloat16, "attn_implementation": attention}
        try:
            encoder = CrossEncoder(
                str(folder),
                device=device,
                max_length=max(lengths),
                model_kwargs=options,
                activation_fn=torch.nn.Identity(),
            )
        except (ImportError, ValueError) as error:
            yield f"{attention}: not here ({str(error).splitlines()[0]})"
            continue
        for batch_size in BATCH_SIZES:
            try:
                seconds = _seconds(encoder, pairs, batch_size)
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
                yield f"{attention}, batches of {batch_size}: out of memory"
                continue
            rate = len(pairs) / seconds
            yield f"{attention}, batches of {batch_size}: {rate:,.0f} pairs/s"
        del encoder


def log_odds(folder: Path, rows: Sequence[np.ndarray], device: str = "cuda") -> np.ndarray:
    """Of prompts one by one, in bfloat16: how much the precision itself moves them."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16)
    model = model.to(device).eval()
    with torch.inference_mode():
        found = [
            model(torch.tensor(row[None].astype(np.int64), device=device)).logits.float().item()
            for row in rows
        ]
    return np.array(found)


def product_rate(device: str = "cuda") -> float:
    """FLOP/s of a large product in bfloat16, the median of some: what this GPU really does."""
    import torch

    size, tries = 8192, 10
    one, other = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(tries):
        torch.cuda.synchronize()
        start = time.perf_counter()
        torch.mm(one, other)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / float(np.median(seconds))


def _seconds(encoder: object, pairs: list[tuple[str, str]], batch_size: int) -> float:
    encoder.predict(pairs[: 2 * batch_size], batch_size=batch_size, show_progress_bar=False)
    start = time.perf_counter()
    encoder.predict(pairs, batch_size=batch_size, show_progress_bar=False)
    return time.perf_counter() - start
