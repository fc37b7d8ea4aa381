"""Random training text: words drawn by their real-life frequency, with no meaning at all.

A group is one query with some documents into which part of the query's words are planted. What a
document is worth is known exactly: the sum of its shared terms' log inverse document frequencies,
damped for repeats and length.
"""

from __future__ import annotations

import random
from bisect import bisect
from dataclasses import dataclass
from itertools import accumulate

import lexicon
import numpy as np
from tokenizers import Tokenizer

QUESTIONS = (
    "What is the", "What was", "What", "Who was the", "Who", "When did", "When was the", "Where is",
    "Where", "Which", "How many", "How", "Why did", "In what year did", "What type of", "What did",
    "Along with", "Name of", "",
)  # fmt: skip
SCRIPTS = ("абвгдежзиклмнопрстуфхцчшыьюя", "αβγδεζηθικλμνξοπρστυφχω", "ابتثجحخدرزسشصعغفقكلمنهوي",
           "कखगचजटडतदनपबमयरलवशसहािीुेो", "アイウエオカキクコサシスタテトナニノマミラリルレロン",
           "אבגדהוזחטיכלמנסעפצקרשת")  # fmt: skip


@dataclass(slots=True)
class Term:
    """A word: what it is worth, and the ids of each form (after a space, capitalised, bare)."""

    forms: list[tuple[list[int], list[int], list[int]]]
    features: tuple[tuple[int, float], ...]
    capital: float


class Pool:
    """Terms of one kind of text with their frequencies."""

    def __init__(self, terms: list[Term], weights: list[float], kind: str) -> None:
        self.terms, self.kind = terms, kind
        self.common = list(accumulate(weights))
        self.topical = list(accumulate(weight**0.5 for weight in weights))

    def draw(self, rng: random.Random, count: int, topical: bool = False) -> list[Term]:
        """Terms by frequency, or by a flatter law that favours rare ones."""
        sums = self.topical if topical else self.common
        return [
            self.terms[min(bisect(sums, rng.random() * sums[-1]), len(self.terms) - 1)]
            for _ in range(count)
        ]


def rarity(frequency: float, length: int) -> float:
    """Log inverse of the share of documents of this length that hold a word, at most 7."""
    return float(min(7.0, -np.log(-np.expm1(length * np.log1p(-min(frequency, 0.5))))))


@dataclass(slots=True)
class Group:
    """A query's token ids and its documents' ids, matched marks and target log-odds."""

    query: list[int]
    documents: list[list[int]]
    marks: list[list[int]]
    targets: list[float]


class Source:
    """Makes groups; everything follows from the random generator that it is given."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self.tokenizer = tokenizer
        self.count = 0
        self.seed = seed
        self.pools = [self.latin(0.0), self.latin(0.35), self.chinese(), self.scripts()]
        self.shares = [0.58, 0.05, 0.31, 0.06]
        self.questions = [self.encode(f" {text}") if text else [] for text in QUESTIONS]
        self.chinese_questions = [self.encode(text) for text in lexicon.sections()["zh.question"]]
        self.marks = {
            text: self.encode(text)
            for text in (",", ".", "?", "，", "。", "？", " (", ' "', "-", "、", " ")
        }

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def feature(self) -> int:
        self.count += 1
        return self.count

    def spaced(
        self, words: list[tuple[str, ...]], rarities: list[float], capitals: list[float]
    ) -> list[Term]:
        """Terms of languages that put spaces between words."""
        flat = [
            s
            for forms in words
            for form in forms
            for s in (f" {form}", f" {form.capitalize()}", form)
        ]
        ids = iter(
            [
                encoding.ids
                for encoding in self.tokenizer.encode_batch_fast(flat, add_special_tokens=False)
            ]
        )
        terms = []
        for forms, worth, capital in zip(words, rarities, capitals, strict=True):
            spelled = [(next(ids), next(ids), next(ids)) for _ in forms]
            terms.append(Term(spelled, ((self.feature(), worth),), capital))
        return terms

    def latin(self, foreign: float) -> Pool:
        """English (or a European mixture) with numbers and invented names."""
        families = [(f.forms, f.frequency * (1 - 0.8 * (foreign > 0)), 0.97 if f.proper else 0.03)
                    for f in lexicon.english()]  # fmt: skip
        families += [
            (f.forms, f.frequency * (1.0 if foreign else 0.05), 0.1) for f in lexicon.foreign()
        ]
        years = [str(year) for year in range(1400, 2026)] + [str(n) for n in range(2, 400)]
        families += [((year,), 0.03 / len(years), 0.0) for year in years]
        names = lexicon.invented_words(24000, self.seed + (foreign > 0))
        share = 0.16 * sum(frequency for _, frequency, _ in families) / len(names)
        rng = random.Random(self.seed)
        families += [((name, name + "s"), share, rng.choice((0.95, 0.05))) for name in names]
        total = sum(frequency for _, frequency, _ in families)
        terms = self.spaced(
            [forms for forms, _, _ in families],
            [rarity(frequency / total, 100) for _, frequency, _ in families],
            [capital for _, _, capital in families],
        )
        return Pool(terms, [frequency for _, frequency, _ in families], "spaced")

    def chinese(self) -> Pool:
        """Characters, and invented words of two or three that are worth more than these."""
        rng = random.Random(self.seed + 2)
        frequencies = lexicon.hanzi()
        characters = list(frequencies)
        own = {c: (self.feature(), 0.4 * rarity(f, 90)) for c, f in frequencies.items()}
        terms = [Term([(self.encode(c),) * 3], (own[c],), 0.0) for c in characters]
        weights = [frequency * 0.7 for frequency in frequencies.values()]
        for count, size, share in ((9000, 2, 1.0), (2500, 3, 0.15)):
            flat = [frequency**0.6 for frequency in frequencies.values()]
            for rank in range(count):
                word = rng.choices(characters, flat, k=size)
                ids = [token for c in word for token in self.encode(c)]
                weight = share * 0.12 / (rank + 10.0)
                features = (
                    *(own[c] for c in word),
                    (self.feature(), 0.6 * rarity(weight / 2.0, 60)),
                )
                terms.append(Term([(ids,) * 3], features, 0.0))
                weights.append(weight)
        return Pool(terms, weights, "joined")

    def scripts(self) -> Pool:
        """Invented words in other alphabets, and words of raw random tokens."""
        rng = random.Random(self.seed + 3)
        words = [
            ("".join(rng.choices(rng.choice(SCRIPTS), k=rng.randint(2, 6))),) for _ in range(6000)
        ]
        frequencies = [1.0 / (rank + 10.0) for rank in range(len(words))]
        total = sum(frequencies) * 2
        terms = self.spaced(words, [rarity(f / total, 60) for f in frequencies], [0.0] * len(words))
        limit = self.tokenizer.get_vocab_size(with_added_tokens=False)
        for _ in range(6000):
            ids = [rng.randrange(limit) for _ in range(rng.randint(1, 3))]
            terms.append(Term([(ids,) * 3], ((self.feature(), 6.5),), 0.0))
            frequencies.append(total / 2 / 6000)
        return Pool(terms, frequencies, "spaced")

    def spell(self, rng: random.Random, term: Term, start: bool, joined: bool) -> list[int]:
        """The ids of one of the term's spellings, seldom after a bracket or hyphen."""
        form = term.forms[0] if rng.random() < 0.7 else rng.choice(term.forms)
        if joined:
            return form[0]
        if rng.random() < 0.03:
            return self.marks[rng.choice((" (", ' "', "-"))] + form[2]
        return form[1] if start or rng.random() < term.capital else form[0]

    def render(
        self, rng: random.Random, terms: list[Term], joined: bool
    ) -> tuple[list[int], list[int]]:
        """A text's ids and for each the place of its term (-1: punctuation)."""
        ids: list[int] = list(self.marks[" "]) if joined else []
        owners = [-1] * len(ids)
        start = rng.random() < 0.9
        for place, term in enumerate(terms):
            piece = self.spell(rng, term, start, joined)
            ids += piece
            owners += [place] * len(piece)
            roll = rng.random()
            start = roll < 0.05
            if roll < 0.12:
                mark = self.marks[("。" if start else "，") if joined else ("." if start else ",")]
                ids += mark
                owners += [-1] * len(mark)
        return ids, owners

    def query(self, rng: random.Random, pool: Pool) -> tuple[list[Term], list[int]]:
        """A query's terms and ids, with the words of a question that count for nothing."""
        joined = pool.kind == "joined"
        count = rng.randint(3, 9)
        terms = [pool.draw(rng, 1, topical=rng.random() < 0.6)[0] for _ in range(count)]
        ids, _ = self.render(rng, terms, joined)
        if joined:
            question = rng.choice(self.chinese_questions)
            cut = len(self.marks[" "])
            ids = ids + question if rng.random() < 0.5 else ids[:cut] + question + ids[cut:]
        else:
            ids = rng.choice(self.questions) + ids
        if rng.random() < 0.75:
            ids = ids + self.marks["？" if joined else "?"]
        return terms, ids

    def document(self, rng: random.Random, pool: Pool, query: list[Term], size: int) -> list[Term]:
        """About `size` tokens by frequency, with some of the query's terms, often side by side."""
        coverage = rng.choice((0.0, 0.0, 0.15, 0.3, 0.5, 0.7, 0.95))
        chunks: list[list[Term]] = []
        neighbour = False
        for term in query:
            planted = rng.random() < coverage
            if planted and neighbour and rng.random() < 0.6:
                chunks[-1].append(term)
            elif planted:
                chunks.append([term])
            if planted and rng.random() < 0.12:
                chunks.insert(0, [term])
            neighbour = planted
        room = max(6, size - sum(len(term.forms[0][0]) for chunk in chunks for term in chunk))
        terms: list[Term] = []
        topical = rng.random() < 0.5
        while room > 0:
            term = pool.draw(rng, 1, topical and rng.random() < 0.25)[0]
            terms.append(term)
            room -= len(term.forms[0][0])
        for chunk in chunks:
            at = rng.randint(0, len(terms))
            terms[at:at] = chunk
        return terms

    def group(self, rng: random.Random, documents: int, size: int) -> Group:
        """One query with documents of about `size` tokens, more or less by a third."""
        pool = rng.choices(self.pools, self.shares)[0]
        joined = pool.kind == "joined"
        query, ids = self.query(rng, pool)
        wanted = {feature: worth for term in query for feature, worth in term.features}
        made = Group(ids, [], [], [])
        for _ in range(documents):
            terms = self.document(rng, pool, query, int(size * rng.uniform(0.6, 1.1)))
            tokens, owners = self.render(rng, terms, joined)
            counts: dict[int, int] = {}
            for term in terms:
                for feature, _ in term.features:
                    if feature in wanted:
                        counts[feature] = counts.get(feature, 0) + 1
            damp = 0.5 * (0.6 + 0.4 * len(terms) / 40.0)
            total = sum(wanted[f] * 1.5 * n / (n + damp) for f, n in counts.items())
            hit = [any(f in wanted for f, _ in term.features) for term in terms]
            made.documents.append(tokens)
            made.marks.append([int(owner >= 0 and hit[owner]) for owner in owners])
            made.targets.append(0.35 * total - 4.0)
        return made
