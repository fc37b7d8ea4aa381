"""The project's own words: what the tokenizer's vocabulary and the training text are drawn from.

Every word carries an estimate of its real-life frequency, taken from its place in words.txt, so
that the rarity that the model learns for a token is near to the token's rarity in real text. No
outside text is used.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

WORDS = Path(__file__).with_name("words.txt")
SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".'
)
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
CONTENT = ("en.noun", "en.verb", "en.adjective", "en.name")
FOREIGN = ("de", "es", "fr", "it", "pt", "nl", "pl", "tr", "ru", "uk", "el", "ar", "he", "hi")


@dataclass(frozen=True)
class Family:
    """A word and its inflected forms, which count as one term when texts are matched."""

    forms: tuple[str, ...]
    frequency: float
    proper: bool = False


@cache
def sections() -> dict[str, tuple[str, ...]]:
    """The sections of words.txt; words, or for irregular forms whole lines."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in WORDS.read_text(encoding="utf-8").splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            name = line.strip("[]")
            found[name] = []
        else:
            found[name] += [line] if name == "en.irregular" else line.split()
    return {key: tuple(dict.fromkeys(value)) for key, value in found.items()}


def plural(word: str) -> str:
    """The regular plural, or third person, of an English word."""
    if word.endswith(("s", "x", "ch", "sh", "z")):
        return word + "es"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def verb_forms(verb: str) -> tuple[str, ...]:
    """The regular forms of an English verb."""
    if verb.endswith("e"):
        return verb, plural(verb), verb + "d", verb[:-1] + "ing"
    if verb.endswith("y") and verb[-2:-1] not in "aeiou":
        return verb, plural(verb), verb[:-1] + "ied", verb + "ing"
    vowels = [letter in "aeiou" for letter in verb[-3:]]
    if vowels == [False, True, False] and len(verb) == 3 and verb[-1] not in "wxy":
        verb_doubled = verb + verb[-1]
        return verb, plural(verb), verb_doubled + "ed", verb_doubled + "ing"
    return verb, plural(verb), verb + "ed", verb + "ing"


@cache
def english() -> tuple[Family, ...]:
    """English families; by Zipf's law the word of rank r makes up 0.1 / r of a text."""
    words = sections()
    irregular = [tuple(line.split()) for line in words["en.irregular"]]
    function = tuple(dict.fromkeys(words["en.function"] + words["en.question"]))
    total = sum(len(words[name]) for name in CONTENT)
    ranks: dict[str, float] = {word: index + 1.0 for index, word in enumerate(function)}
    forms: dict[str, tuple[str, ...]] = {word: (word,) for word in function}
    proper = set(words["en.name"])
    for name in CONTENT:
        scale = total / len(words[name])
        for index, word in enumerate(words[name]):
            ranks.setdefault(word, 60.0 + index * scale * (1.0 if name != "en.name" else 1.3))
            if name == "en.noun":
                new = (word, plural(word))
            else:
                new = verb_forms(word) if name == "en.verb" else (word,)
            forms[word] = tuple(dict.fromkeys(forms.get(word, ()) + new))
    taken: set[str] = set()
    families = []
    for line in irregular:
        known = [word for word in line if word in ranks]
        if known:
            regular = forms[known[0]] if known[0] in words["en.noun"] else (known[0],)
            merged = tuple(dict.fromkeys(line + regular))
            best = min(ranks[word] for word in known)
            families.append(Family(merged, 0.1 / best, known[0] in proper))
            taken.update(merged)
    for word, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if word not in taken:
            families.append(Family(forms[word], 0.1 / rank, word in proper))
    return tuple(families)


@cache
def foreign() -> tuple[Family, ...]:
    """Common words of other languages written with spaces, as rare terms."""
    words = sections()
    return tuple(
        Family((word,), 0.02 / (index + 10))
        for name in FOREIGN
        for index, word in enumerate(words[name])
    )


@cache
def hanzi() -> dict[str, float]:
    """Frequencies of the 3755 characters of GB 2312's first level and the few more of words.txt."""
    ordered = "".join(sections()["zh"])
    level_one = []
    for row in range(0xB0, 0xD8):
        for cell in range(0xA1, 0xFF):
            try:
                level_one.append(bytes((row, cell)).decode("gb2312"))
            except UnicodeDecodeError:
                continue
    listed = dict.fromkeys(ordered)
    rest = [character for character in level_one if character not in listed]
    weights = {character: 1.0 / (rank + 12.0) for rank, character in enumerate(listed)}
    scale = 0.82 / sum(weights.values())
    return {c: w * scale for c, w in weights.items()} | {c: 0.18 / len(rest) for c in rest}


def pieces(text: str, empty: int = 0) -> tuple[str, ...]:
    """The words of a text, and the empty string so many times."""
    return (*text.split(), *[""] * empty)


ONSETS = pieces(
    "b c d f g h j k l m n p r s t v w z br ch cl cr dr fl fr gl gr kl kr pl pr sc sh sk sl sm sn "
    "sp st str th tr wh",
    empty=6,
)
NUCLEI = pieces("a e i o u a e i o a e i o u ai au ea ee ei ia ie io oo ou ue y")
CODAS = pieces("n r l s t m d k ck nd nt rd rt st ng ll ss x p g rg ch th b", empty=22)
ENDINGS = pieces(
    "an ian ia er es s us um on ton ville burg ski ov is ic al ine ite ium o a ez son man i land y"
)


def invented(rng: random.Random) -> str:
    """A word that no list holds, like the names and rare words that people search for."""
    syllables = rng.choices((1, 2, 3), (0.25, 0.5, 0.25))[0]
    parts = (ONSETS, NUCLEI, CODAS)
    word = "".join(rng.choice(part) for _ in range(syllables) for part in parts)
    return word + rng.choice(ENDINGS) if rng.random() < 0.4 or len(word) < 3 else word


def invented_words(count: int, seed: int) -> list[str]:
    """The same different invented words for the same seed."""
    rng = random.Random(seed)
    words: dict[str, None] = {}
    while len(words) < count:
        words[invented(rng)] = None
    return list(words)
