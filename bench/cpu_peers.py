"""What else scores with Qwen3-Reranker on CPUs, on the same texts: for bench/peers.py."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from gpu_peer import make_cross_encoder
from sentence_transformers import CrossEncoder
from transformers import AutoModelForCausalLM, AutoTokenizer

from shardrank.engine.machine import num_cores

BATCH_SIZES = (4, 16)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PEERS = (
    "sentence-transformers bf16", "sentence-transformers fp32", "sentence-transformers onnx",
    "transformers bf16", "onnxruntime fp32",
)  # fmt: skip
NEED_OPTIMUM = ("sentence-transformers onnx", "onnxruntime fp32")
"""Peers that optimum exports (pip install sentence-transformers[onnx])."""
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
        prompts = _prompts(texts)

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
        run: Callable[[int, int], object]
        if library == "transformers":
            run = _model_card(checkpoint, texts, DTYPES[precision])
        elif library == "onnxruntime":
            run = _export(checkpoint, texts)
        else:
            encoder = _cross_encoder(checkpoint, precision)

            def run(number: int, size: int, encoder: CrossEncoder = encoder) -> object:
                return encoder.predict(ordered[:number], batch_size=size, show_progress_bar=False)

        for size in BATCH_SIZES:
            found[f"{name}, batches of {size}"] = partial(run, size=size)
    return found


def _cross_encoder(checkpoint: Path, precision: str) -> CrossEncoder:
    folder = checkpoint.parent / "cross-encoder"
    if not (folder / "config.json").is_file():
        make_cross_encoder(checkpoint, folder, YES_ID, NO_ID)
    if precision != "onnx":
        return CrossEncoder(
            str(folder),
            device="cpu",
            model_kwargs={"dtype": DTYPES[precision]},
            activation_fn=torch.nn.Identity(),
        )
    exported = folder.with_name("cross-encoder-onnx")
    is_there = exported.is_dir()
    encoder = CrossEncoder(
        str(exported if is_there else folder),
        device="cpu",
        backend="onnx",
        model_kwargs={"provider": "CPUExecutionProvider", "export": not is_there},
        activation_fn=torch.nn.Identity(),
    )
    if not is_there:
        encoder.save_pretrained(str(exported))
    return encoder


def _prompts(texts: Sequence[tuple[str, str]]) -> list[str]:
    return sorted((front + own for front, own in texts), key=len, reverse=True)


def _tokenizer(checkpoint: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, padding_side="left")
    tokenizer.add_special_tokens({"pad_token": "<|endoftext|>"})
    return tokenizer


def _export(checkpoint: Path, texts: Sequence[tuple[str, str]]) -> Callable[[int, int], object]:
    """optimum's export as it comes, in onnxruntime: left padding, all logits, an empty past."""
    folder = checkpoint.with_name("export")
    if not (folder / "model.onnx").is_file():
        from optimum.exporters.onnx import main_export

        main_export(str(checkpoint), folder, task="text-generation-with-past", do_validation=False)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    inputs = {node.name: node.shape for node in session.get_inputs()}
    tokenizer, prompts = _tokenizer(checkpoint), _prompts(texts)

    def score(number: int, size: int) -> None:
        for start in range(0, number, size):
            batch = tokenizer(prompts[start : start + size], padding=True, return_tensors="np")
            mask = batch["attention_mask"].astype(np.int64)
            feeds = {"input_ids": batch["input_ids"].astype(np.int64), "attention_mask": mask}
            if "position_ids" in inputs:
                feeds["position_ids"] = np.maximum(mask.cumsum(axis=1) - 1, 0)
            for name, shape in inputs.items():
                if name.startswith("past_key_values"):
                    feeds[name] = np.zeros((len(mask), shape[1], 0, shape[3]), np.float32)
            (logits,) = session.run(["logits"], feeds)
            (logits[:, -1, YES_ID] - logits[:, -1, NO_ID]).tolist()

    return score


def _model_card(
    checkpoint: Path, texts: Sequence[tuple[str, str]], dtype: torch.dtype
) -> Callable[[int, int], object]:
    """The code of the model card: all logits, the last token's of which count."""
    tokenizer, prompts = _tokenizer(checkpoint), _prompts(texts)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype).eval()

    @torch.no_grad()
    def score(number: int, size: int) -> None:
        for start in range(0, number, size):
            batch = tokenizer(prompts[start : start + size], padding=True, return_tensors="pt")
            logits = model(**batch).logits[:, -1, :]
            pair = torch.stack([logits[:, NO_ID], logits[:, YES_ID]], dim=1)
            torch.nn.functional.log_softmax(pair, dim=1)[:, 1].exp().tolist()

    return score
