"""What else scores with Qwen3-Reranker on CPUs, on the same texts: for bench/peers.py."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from gpu_peer import make_cross_encoder
from sentence_transformers import CrossEncoder
from transformers import AutoModelForCausalLM, AutoTokenizer

from shardrank.engine.machine import num_cores

BATCH_SIZES = (4, 16)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PEERS = ("sentence-transformers bf16", "sentence-transformers fp32", "transformers bf16")
YES_ID, NO_ID = 9693, 2152
_SEPARATOR = "<|next|>"

# The model card's usage, as it stands there.
_SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".'
)
_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
_PREFIX = f"<|im_start|>system\n{_SYSTEM}<|im_end|>\n<|im_start|>user\n"
_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


@dataclass(frozen=True)
class Llama:
    """llama.cpp; program: llama-embedding, gguf: the checkpoint.

    Its last token's hidden values stand for a score: a head of two rows costs nothing.
    """

    program: Path
    gguf: Path

    def engine(self, texts: Sequence[tuple[str, str]]) -> Callable[[int], object]:
        """What runs so many of the texts, in batches of llama-embedding's own making."""
        prompts = sorted((front + own for front, own in texts), key=len, reverse=True)

        def run(number: int) -> None:
            command = [str(self.program), "-m", str(self.gguf), "-t", str(num_cores())]
            command += ["--pooling", "last", "--embd-output-format", "raw", "-c", "2048"]
            command += ["-b", "512", "-ub", "512", "--embd-separator", _SEPARATOR]
            text = _SEPARATOR.join(prompts[:number])
            subprocess.run([*command, "-p", text], check=True, capture_output=True)

        return run


def template_pair(query: str, document: str) -> tuple[str, str]:
    """The prompt, in what the query's documents share and what is the document's own."""
    front = f"{_PREFIX}<Instruct>: {_INSTRUCTION}\n<Query>: {query}\n<Document>:"
    return front, f" {document}{_SUFFIX}"


def engines(
    checkpoint: Path, texts: Sequence[tuple[str, str]], names: Sequence[str]
) -> dict[str, Callable[[int], object]]:
    """What scores so many of the texts, the longest first, by name and batch size."""
    torch.set_num_threads(num_cores())
    found: dict[str, Callable[[int], object]] = {}
    # The longest first: no batch has more padding than it must.
    ordered = sorted(texts, key=lambda text: -sum(map(len, text)))
    for name in names:
        library, _, precision = name.partition(" ")
        dtype = DTYPES[precision]
        if library == "transformers":
            found[f"{name}, batches of 4"] = _model_card(checkpoint, texts, dtype, 4)
            continue
        folder = checkpoint.parent / "cross-encoder"
        if not (folder / "config.json").is_file():
            make_cross_encoder(checkpoint, folder, YES_ID, NO_ID)
        encoder = CrossEncoder(
            str(folder),
            device="cpu",
            model_kwargs={"dtype": dtype},
            activation_fn=torch.nn.Identity(),
        )
        for size in BATCH_SIZES:
            found[f"{name}, batches of {size}"] = lambda number, e=encoder, s=size: e.predict(
                ordered[:number], batch_size=s, show_progress_bar=False
            )
    return found


def _model_card(
    checkpoint: Path, texts: Sequence[tuple[str, str]], dtype: torch.dtype, size: int
) -> Callable[[int], object]:
    """The code of the model card: all logits, the last token's of which count."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, padding_side="left")
    tokenizer.add_special_tokens({"pad_token": "<|endoftext|>"})
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype).eval()
    prompts = sorted((front + own for front, own in texts), key=len, reverse=True)

    @torch.no_grad()
    def score(number: int) -> None:
        for start in range(0, number, size):
            batch = tokenizer(prompts[start : start + size], padding=True, return_tensors="pt")
            logits = model(**batch).logits[:, -1, :]
            pair = torch.stack([logits[:, NO_ID], logits[:, YES_ID]], dim=1)
            torch.nn.functional.log_softmax(pair, dim=1)[:, 1].exp().tolist()

    return score
