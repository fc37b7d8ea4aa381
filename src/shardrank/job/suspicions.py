"""What looks wrong with texts, though it can be read: the wrong column, markup, twins. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from statistics import median

_MOST = 0.5
"""A kind of text is worth a warning where at least this share of all is of it."""
_FEW = 0.02
_MIN_TEXTS = 4
_URL = re.compile(r"\s*\w+://\S+\s*")
_IDENTIFIER = re.compile(r"\s*(?=\S*\d)[\w./:#-]+\s*", re.ASCII)
_MARKUP = re.compile(r"\s*<[a-zA-Z!][^>]*>")
_JSON = re.compile(r'\s*[\[{]\s*["\[{\]}]')
_BROKEN = re.compile("\ufffd|Ã[\x80-\xbf]|â€")
_SWAPPED_FACTOR = 3
_SWAPPED_CHARACTERS = 200


def suspicions(
    queries: Sequence[str], documents: Sequence[str], query_of: Sequence[int]
) -> list[str]:
    """What a person should look at before such texts are scored; [] if nothing strikes.

    queries, documents: of the sampled rows and pairs. query_of: for each document its query.
    """
    found = [
        *_of_kind(queries, "queries", "input.columns.query"),
        *_of_kind(documents, "documents", "input.columns.text"),
        *_repeats(queries, documents, query_of),
    ]
    if len(queries) >= _MIN_TEXTS and documents:
        long_query, long_document = median(map(len, queries)), median(map(len, documents))
        if long_query > _SWAPPED_CHARACTERS and long_query > _SWAPPED_FACTOR * long_document:
            found.append(
                f"queries are much longer than documents ({long_query:.0f} characters against "
                f"{long_document:.0f}): are input.columns.query and input.columns.text swapped?"
            )
    return found


def _of_kind(texts: Sequence[str], what: str, setting: str) -> list[str]:
    """One warning for each kind that most texts are of."""
    given = [text for text in texts if text]
    if len(given) < _MIN_TEXTS:
        return []
    kinds = (
        ("are URLs", lambda text: _URL.fullmatch(text)),
        ("look like identifiers", lambda text: _IDENTIFIER.fullmatch(text)),
        ("hold no letters", lambda text: not any(character.isalpha() for character in text)),
        ("begin with markup", lambda text: _MARKUP.match(text)),
        ("look like JSON", lambda text: _JSON.match(text)),
    )
    found = []
    for words, is_kind in kinds:
        matching = [text for text in given if is_kind(text)]
        if len(matching) >= _MOST * len(given):
            found.append(
                f"{len(matching) / len(given):.0%} of the {what} {words}, such as "
                f"{_short(matching[0])}: is {setting} the right column?"
            )
            break
    broken = [text for text in given if _BROKEN.search(text)]
    if len(broken) >= _FEW * len(given):
        found.append(
            f"{len(broken) / len(given):.0%} of the {what} hold characters that a wrong encoding "
            f"leaves, such as {_short(broken[0])}"
        )
    return found


def _repeats(
    queries: Sequence[str], documents: Sequence[str], query_of: Sequence[int]
) -> list[str]:
    found = []
    num_again = len(queries) - len(set(queries))
    if len(queries) >= _MIN_TEXTS and num_again >= _FEW * len(queries):
        most, times = Counter(queries).most_common(1)[0]
        found.append(
            f"{num_again / len(queries):.0%} of the sampled queries occur before, the commonest "
            f"{times} times ({_short(most)}): are they meant to be scored again?"
        )
    pairs = [(query, text) for query, text in zip(query_of, documents, strict=True)]
    num_twins = len(pairs) - len(set(pairs))
    if num_twins and num_twins >= _FEW * len(pairs):
        found.append(
            f"{num_twins / len(pairs):.0%} of the sampled candidates repeat a text of their own "
            "query: a document that is indexed twice?"
        )
    num_echoes = sum(queries[query] == text for query, text in pairs)
    if num_echoes and num_echoes >= _MOST * len(pairs):
        found.append(
            f"{num_echoes / len(pairs):.0%} of the documents are their own query: is "
            "input.columns.text the right column?"
        )
    return found


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= 60 else f"{flat[:57]}...")
