"""Trains the demo model on random text with a fixed seed and writes a Hugging Face checkpoint.

Three losses: the target log-odds, their order within a query, and a probe on the third layer that
says for each document token whether the query holds it too, without which learning is slow.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from pathlib import Path

import torch
from model import CONFIG, Reranker, Segment
from prompt import Prompt
from start import initialise
from text import Group, Source
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional


def pad(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Right-padded ids and their mask."""
    length = max(map(len, rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    sizes = torch.tensor([len(row) for row in rows])
    return ids, torch.arange(length)[None] < sizes[:, None]


def batch(groups: list[Group], prompt: Prompt) -> tuple[list[Segment], Tensor, Tensor]:
    """The segments of some groups, each row's last place, and its marks (-1 outside documents)."""
    first = torch.tensor([prompt.head])
    at = torch.arange(len(prompt.head))[None]
    ids, valid = pad([group.query + prompt.middle for group in groups])
    queries = Segment(
        ids, len(prompt.head) + torch.arange(ids.shape[1])[None].expand_as(ids), valid
    )
    each = len(groups[0].documents)
    starts = (len(prompt.head) + valid.sum(1)).repeat_interleave(each)
    rows = [document + prompt.tail for group in groups for document in group.documents]
    ids, valid = pad(rows)
    documents = Segment(ids, starts[:, None] + torch.arange(ids.shape[1])[None], valid)
    marks = torch.full(ids.shape, -1.0)
    for row, mark in enumerate(mark for group in groups for mark in group.marks):
        marks[row, : len(mark)] = torch.tensor(mark, dtype=torch.float32)
    return (
        [Segment(first, at, torch.ones_like(first, dtype=torch.bool)), queries, documents],
        valid.sum(1) - 1,
        marks,
    )


def losses(
    states: list[Tensor], scores: Tensor, targets: Tensor, marks: Tensor, probe: nn.Linear
) -> tuple[Tensor, ...]:
    """Value, order within the query, and probe."""
    value = functional.smooth_l1_loss(scores, targets, beta=2.0)
    order = functional.kl_div(
        (scores * 0.7).log_softmax(1),
        (targets * 0.7).log_softmax(1),
        reduction="batchmean",
        log_target=True,
    )
    found = probe(states[2]).squeeze(-1)
    known = marks >= 0
    return value, order, functional.binary_cross_entropy_with_logits(found[known], marks[known])


def plan(rng: random.Random, progress: float, prompt: Prompt) -> tuple[int, Prompt]:
    """Document size in tokens and prompt: first short with a bare template, then the card's own."""
    if progress < 0.12:
        return rng.randint(16, 28), Prompt(
            prompt.head[:1] + prompt.head[-3:], prompt.middle, prompt.tail[-1:]
        )
    longest = 48 if progress < 0.5 else 80 if progress < 0.85 else 150
    return rng.randint(16, longest), prompt


def rate_at(progress: float, step: int) -> float:
    """Share of the full learning rate: warm-up, then a cosine to a twentieth."""
    return min(1.0, (step + 1) / 100) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


def main() -> None:
    """Trains and saves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="holds tokenizer.json; the checkpoint goes there")
    parser.add_argument("--steps", type=int, default=3000, help="length of the whole schedule")
    parser.add_argument("--stop", type=int, help="steps to take of it; default all")
    parser.add_argument("--queries", type=int, default=8, help="queries in a batch")
    parser.add_argument("--documents", type=int, default=8, help="documents of a query")
    parser.add_argument("--rate", type=float, default=6e-4)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = Tokenizer.from_file(str(options.folder / "tokenizer.json"))
    prompt = Prompt.build(tokenizer)
    yes, no = tokenizer.token_to_id("yes"), tokenizer.token_to_id("no")
    source = Source(tokenizer, options.seed)
    model = Reranker(CONFIG)
    initialise(model, tokenizer, source, options.seed)
    probe = nn.Linear(CONFIG["hidden_size"], 1)
    table = model.embed_tokens.weight
    rest = [weight for weight in model.parameters() if weight is not table]
    rest += probe.parameters()
    optimizer = torch.optim.AdamW(
        [{"params": [table], "share": 0.3}, {"params": rest, "share": 1.0}],
        weight_decay=0.0,
        betas=(0.9, 0.99),
    )
    rng = random.Random(options.seed + 1)
    began, totals = time.monotonic(), torch.zeros(4)
    for step in range(options.stop or options.steps):
        progress = step / options.steps
        for group in optimizer.param_groups:
            group["lr"] = options.rate * group["share"] * rate_at(progress, step)
        size, template = plan(rng, progress, prompt)
        groups = [source.group(rng, options.documents, size) for _ in range(options.queries)]
        segments, last, marks = batch(groups, template)
        states = model.hidden(segments)
        final = states[-1][torch.arange(len(last)), last]
        scores = model.log_odds(final, yes, no).view(options.queries, -1)
        targets = torch.tensor([group.targets for group in groups])
        value, order, found = losses(states, scores, targets, marks, probe)
        optimizer.zero_grad()
        (value + order + found * (2.0 if progress < 0.5 else 0.5)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        right = scores.argmax(1) == targets.argmax(1)
        totals += torch.stack((value, order, found, right.float().mean())).detach()
        if (step + 1) % 50 == 0:
            numbers = " ".join(f"{number:.3f}" for number in (totals / 50).tolist())
            seconds = time.monotonic() - began
            print(f"step {step + 1} value/order/probe/top1 {numbers} {seconds:.0f} s", flush=True)
            totals.zero_()
        if (step + 1) % options.save_every == 0:
            model.save(options.folder)
    model.save(options.folder)


if __name__ == "__main__":
    main()
