"""Builds the demo model's tokenizer.json: Qwen3's structure and special tokens, merges of our own.

The vocabulary is byte-level BPE trained on the lexicon's weighted words. Chinese characters and
letters of other scripts get their merges directly, one token a character, so that a character is
the same token in every context.
"""

from __future__ import annotations

import argparse
import heapq
import json
import re
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import lexicon

VOCABULARY = 11008
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = lexicon.pieces(
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> "
    "<|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> "
    "<|image_pad|> <|video_pad|>"
)
ADDED = lexicon.pieces(
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> "
    "<|repo_name|> <|file_sep|> <tool_response> </tool_response> <think> </think>"
)
Pair = tuple[str, str]


def byte_alphabet() -> list[str]:
    """The printable stand-in of each byte, as in every byte-level BPE."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    mapping = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        if byte not in mapping:
            mapping[byte] = chr(256 + len(mapping) - len(printable))
    return [mapping[byte] for byte in range(256)]


BYTES = byte_alphabet()


def to_symbols(text: str) -> str:
    """The text's UTF-8 bytes as stand-ins."""
    return "".join(BYTES[byte] for byte in text.encode("utf-8"))


def corpus() -> Counter[str]:
    """Weighted pre-tokens: the lexicon's words, with or without space or capital, and prompts."""
    weights: Counter[str] = Counter()

    def add(word: str, weight: float, capital: float) -> None:
        for spelled, share in ((word, 1.0 - capital), (word.capitalize(), capital)):
            weights[" " + spelled] += weight * share
            weights[spelled] += weight * share * 0.015

    for family in lexicon.english():
        for index, form in enumerate(family.forms):
            weight = max(family.frequency, 8e-5) / (1.0 + index)
            add(form, weight, 0.97 if family.proper else 0.08)
    for family in lexicon.foreign():
        add(family.forms[0], family.frequency * 0.05, 0.1)
    for word in lexicon.sections()["en.affix"]:
        weights[word] += 5e-4
    for word in lexicon.invented_words(20000, seed=7):
        add(word, 3e-7, 0.7)
    marks = "<Query>: <Document>: system user assistant"
    fixed = f"{lexicon.SYSTEM} <Instruct>: {lexicon.INSTRUCTION} {marks}"
    for piece in re.findall(r" ?[^\W\d_]+| ?[^\w\s]+", fixed):
        weights[piece] += 3e-3
    for piece in (
        "\n\n",
        " (",
        ").",
        "),",
        ' "',
        '".',
        '",',
        "...",
        " -",
        "--",
        " –",
        ".\n",
        " '",
        "://",
    ):
        weights[piece] += 1e-3
    for word in ("yes", "no", "system", "user", "assistant"):
        weights[word] += 0.1
    return weights


def train(weights: Counter[str], size: int) -> list[Pair]:
    """The first `size` BPE merges of weighted words, heaviest pair first, ties by spelling."""
    words = [[list(to_symbols(word)), weight] for word, weight in sorted(weights.items())]
    pairs: dict[Pair, float] = defaultdict(float)
    places: dict[Pair, set[int]] = defaultdict(set)
    for index, (symbols, weight) in enumerate(words):
        for pair in pairwise(symbols):
            pairs[pair] += weight
            places[pair].add(index)
    heap = [(-weight, pair) for pair, weight in pairs.items()]
    heapq.heapify(heap)
    merges: list[Pair] = []
    while len(merges) < size and heap:
        weight, pair = heapq.heappop(heap)
        current = pairs.get(pair, 0.0)
        if -weight != current:
            if current > 1e-12:
                heapq.heappush(heap, (-current, pair))
            continue
        merges.append(pair)
        changed: set[Pair] = set()
        for index in sorted(places.pop(pair)):
            symbols, share = words[index]
            for old in pairwise(symbols):
                pairs[old] -= share
            merged, at = [], 0
            while at < len(symbols):
                if tuple(symbols[at : at + 2]) == pair:
                    merged.append(pair[0] + pair[1])
                    at += 2
                else:
                    merged.append(symbols[at])
                    at += 1
            words[index][0] = merged
            for new in pairwise(merged):
                pairs[new] += share
                places[new].add(index)
                changed.add(new)
        pairs.pop(pair, None)
        for new in sorted(changed):
            heapq.heappush(heap, (-pairs[new], new))
    return merges


def characters() -> list[str]:
    """Characters of several bytes that are one token each, whatever stands beside them."""
    ranges = (
        (0x3041, 0x3094),
        (0x30A1, 0x30FB),
        (0x0430, 0x0450),
        (0x0410, 0x0430),
        (0x03B1, 0x03CA),
    )
    ranges += (
        (0x0391, 0x03AA),
        (0x0621, 0x064B),
        (0x05D0, 0x05EB),
        (0x0905, 0x093A),
        (0x093E, 0x094E),
    )
    text = "".join(map(chr, (code for low, high in ranges for code in range(low, high))))
    text += "ёіїєґάέήίόύώςğışİőűąćęłńśźżčďěňřšťůžāīūȘșȚțăâîãõçñøåæœßäöüÄÖÜÉáàéèêëíìïóòôúùû"
    text += "£€°·×±½²³–—‘’“”…•→−≤≥≈"
    text += "，。、；：？！（）《》「」『』【】·ー％～0" + "".join(lexicon.sections()["ko"])
    return list(dict.fromkeys(character for character in text if len(character.encode()) > 1))


def character_merges(taken: set[str]) -> list[Pair]:
    """Merges that build each character from its bytes, left to right."""
    merges = []
    for character in [*lexicon.hanzi(), *characters()]:
        symbols = to_symbols(character)
        for end in range(2, len(symbols) + 1):
            if symbols[:end] not in taken:
                taken.add(symbols[:end])
                merges.append((symbols[: end - 1], symbols[end - 1]))
    return merges


def build() -> dict[str, object]:
    """The content of tokenizer.json."""
    direct = character_merges(set())
    words = train(corpus(), VOCABULARY)
    made = {left + right for left, right in direct}
    room = VOCABULARY - 256 - len(SPECIAL) - len(ADDED)
    merges = (
        direct + [pair for pair in words if pair[0] + pair[1] not in made][: room - len(direct)]
    )
    vocabulary = {
        symbol: index for index, symbol in enumerate([*BYTES, *(a + b for a, b in merges)])
    }
    added = [
        {"id": len(vocabulary) + index, "content": content, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False, "special": content in SPECIAL}
        for index, content in enumerate([*SPECIAL, *ADDED])
    ]  # fmt: skip
    level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": False,
    }
    split = {
        "type": "Split",
        "pattern": {"Regex": PATTERN},
        "behavior": "Isolated",
        "invert": False,
    }
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "post_processor": level,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                    "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": False,
                  "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocabulary, "merges": [f"{a} {b}" for a, b in merges]},
    }  # fmt: skip


def main() -> None:
    """Writes tokenizer.json and tokenizer_config.json into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    output: Path = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    content = json.dumps(build(), ensure_ascii=False, separators=(",", ":"))
    (output / "tokenizer.json").write_text(content, encoding="utf-8")
    config = {"tokenizer_class": "Qwen2Tokenizer", "model_max_length": 8192, "padding_side": "left",
              "pad_token": "<|endoftext|>", "eos_token": "<|im_end|>",
              "add_prefix_space": False}  # fmt: skip
    (output / "tokenizer_config.json").write_text(
        json.dumps(config, indent=2) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
