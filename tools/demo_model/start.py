"""The weights that training starts from: random, with parts of a matching circuit in place.

From purely random weights the model needs long to find that a document's token should look for
itself in the query. Here some features and heads begin near that solution; training does the rest:

- embeddings: tokens of like spelling are alike; single features hold rarity, a constant, and the
  prompt's marks;
- layer 0: two heads tell each token whether `<Query>:` and `<Document>:` came before it, two look
  one token back;
- layer 1: the heads look for a token of like spelling in the query, or else at `<|im_start|>`.
"""

from __future__ import annotations

import math
import random

import torch
from model import Reranker
from text import Source
from tokenizers import Tokenizer
from torch import Tensor, nn

RARITY, CONSTANT, SINK = 0, 1, 8
MARK_DOCUMENT, MARK_QUERY = 2, 3
IN_DOCUMENT, IN_QUERY = 4, 5
MATCH, MATCH_RARITY = 6, 7
FIRST_SPELLING = 9
SCALE = 0.1


def spelling_vectors(tokenizer: Tokenizer, size: int, seed: int) -> Tensor:
    """Sums of random vectors of letter groups: ` Word`, `word` and `words` begin close together."""
    generator = torch.Generator().manual_seed(seed)
    known: dict[str, Tensor] = {}

    def vector(name: str) -> Tensor:
        if name not in known:
            known[name] = torch.randn(size, generator=generator)
        return known[name]

    rows = []
    for token in range(tokenizer.get_vocab_size()):
        word = tokenizer.decode([token], skip_special_tokens=False).strip().lower()
        own = torch.randn(size, generator=generator)
        if not word or "\ufffd" in word or word.startswith("<"):
            rows.append(own)
            continue
        row = vector(word) + 0.3 * own
        if len(word) > 3 and word.isalpha():
            bounded = f"<{word}>"
            spans = [(at, at + n) for n in (3, 4, 5) for at in range(len(bounded) - n + 1)]
            grams = [vector(f"{end - at}:{bounded[at:end]}") for at, end in spans]
            row = row + 0.9 * torch.stack(grams).sum(0) / math.sqrt(len(grams))
        rows.append(row)
    table = torch.stack(rows)
    return table / table.std(dim=1, keepdim=True)


def rarities(source: Source, size: int, seed: int) -> Tensor:
    """Each token's negative log frequency in the training text, from 0 (commonest) to 3."""
    rng = random.Random(seed)
    counts = torch.ones(size)
    for _ in range(500):
        for document in source.group(rng, 4, 60).documents:
            counts.index_add_(0, torch.tensor(document), torch.ones(len(document)))
    rare = -(counts / counts.sum()).log()
    return 3.0 * (rare - rare.min()) / (rare.max() - rare.min())


def embeddings(tokenizer: Tokenizer, source: Source, size: int, seed: int) -> Tensor:
    """The table of embeddings, of unit scale."""
    table = torch.zeros(tokenizer.get_vocab_size(), size)
    table[:, FIRST_SPELLING:] = spelling_vectors(tokenizer, size - FIRST_SPELLING, seed)
    table[:, RARITY] = rarities(source, len(table), seed)
    table[:, CONSTANT] = 1.5
    table[tokenizer.token_to_id("Document"), MARK_DOCUMENT] = 6.0
    table[tokenizer.token_to_id("Query"), MARK_QUERY] = 6.0
    sink = tokenizer.token_to_id("<|im_start|>")
    table[sink, SINK], table[sink, RARITY] = 4.0, 0.0
    return table


def mark_heads(model: Reranker) -> None:
    """Layer 0: heads 0 and 1 find the prompt's marks; heads 2 and 3 look at the token before."""
    attention = model.layers[0].self_attn
    size = attention.size
    query, key = attention.q_proj.weight, attention.k_proj.weight
    value, out = attention.v_proj.weight, attention.o_proj.weight
    query[: 2 * size] *= 0.1
    key[:size] *= 0.1
    slow = size // 2 - 1
    for head, mark, tag in ((0, MARK_DOCUMENT, IN_DOCUMENT), (1, MARK_QUERY, IN_QUERY)):
        query[head * size + slow - head, CONSTANT] = 3.0
        key[slow - head, mark] = 2.0
        value[head] = 0.0
        value[head, mark] = 1.0
        out[tag] *= 0.1
        out[:, head * size + 1 - head] = 0.0
        out[tag, head * size + head] = SCALE * 2.0 / 5.4
    attention.q_norm.weight[slow - 1 : slow + 1] = 1.6
    half = size // 2
    for head in (2, 3):
        query[head * size : (head + 1) * size] *= 0.1
        key[size:] *= 0.1
        for pair in (0, 1):
            rate = float(model.config["rope_theta"]) ** (-2.0 * pair / size)
            key[size + pair, CONSTANT] = 2.0
            query[head * size + pair, CONSTANT] = 2.0 * math.cos(rate)
            query[head * size + pair + half, CONSTANT] = -2.0 * math.sin(rate)
            attention.q_norm.weight[[pair, pair + half]] = 2.5


def match_heads(model: Reranker) -> None:
    """Layer 1: the heads look for their own spelling among the query's tokens."""
    attention = model.layers[1].self_attn
    size, hidden = attention.size, model.embed_tokens.weight.shape[1]
    half, steady = size // 2, 5
    slow = half - 1
    content = [at for at in range(size) if steady <= at % half < slow]
    query, key = attention.q_proj.weight, attention.k_proj.weight
    value, out = attention.v_proj.weight, attention.o_proj.weight
    for pair in range(key.shape[0] // size):
        rows = torch.zeros(size, hidden)
        rows[content, FIRST_SPELLING:] = (
            torch.randn(len(content), hidden - FIRST_SPELLING) / hidden**0.5
        )
        base = pair * size
        key[base : base + size] = rows + 0.03 * torch.randn_like(rows) / hidden**0.5
        key[base + slow, CONSTANT], key[base + slow, IN_QUERY] = -2.67, 2.0
        key[base + slow, IN_DOCUMENT], key[base + slow, SINK] = -2.0, 5.0
        value[base : base + 2] = 0.0
        value[base, IN_QUERY] = 0.5
        value[base + 1, RARITY] = 1.0
        for head in (2 * pair, 2 * pair + 1):
            query[head * size : (head + 1) * size] = (
                rows + 0.03 * torch.randn_like(rows) / hidden**0.5
            )
            query[head * size + slow, CONSTANT] = 2.0
            out[MATCH, head * size] = SCALE * 0.5
            out[MATCH_RARITY, head * size + 1] = SCALE * 0.5
    attention.q_norm.weight.fill_(2.0)


def initialise(model: Reranker, tokenizer: Tokenizer, source: Source, seed: int) -> None:
    """Sets every weight."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                gain = 0.2 if "o_proj" in name or "down_proj" in name else 1.0
                nn.init.normal_(parameter, std=gain / parameter.shape[1] ** 0.5)
                if gain < 1.0:
                    parameter *= 0.3 * SCALE / 0.2
                    parameter[:FIRST_SPELLING] = 0.0
        model.embed_tokens.weight.copy_(
            SCALE * embeddings(tokenizer, source, model.config["hidden_size"], seed)
        )
        mark_heads(model)
        match_heads(model)
