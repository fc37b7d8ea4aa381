"""What the project's pages hold: links, headings, and blocks of code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shardrank.cli import main
from shardrank.config import load_config

PROJECT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "infra/**/*.md", "bench/*.md", "tools/**/*.md")
    for path in PROJECT.glob(pattern)
)

_FLAGS = ["input.path=in", "output.path=out", "model.path=demo"]
_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(
    r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)"
    r'|<(?:img|a)[^>]+(?:src|href)="(?P<raw>[^"]+)'
)
_HEADING = re.compile(r"^#{1,6} (?P<text>.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page, with the line it begins on."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(PROJECT)}:{self.line}"


def blocks(language: str) -> list[Block]:
    """The fenced blocks of one language on all pages."""
    return [block for page in PAGES for block in blocks_of(page) if block.language == language]


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(page, line, found["language"], found["text"])


def links_of(page: Path) -> list[str]:
    """Where a page points to, outside its blocks and code."""
    text = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", page.read_text()))
    return [found["target"] or found["raw"] for found in _LINK.finditer(text)]


def anchors_of(page: Path) -> set[str]:
    """The names by which headings can be linked to."""
    headings = _HEADING.findall(_FENCE.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-") for text in headings}


def commands_of(shell: str) -> Iterator[list[str]]:
    """The commands of a shell script, as words; redirections and comments left out."""
    for line in shell.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("|;&"):
                if words:
                    yield _without_variables(words)
                words = []
            else:
                words.append(word)


def shardrank_words(words: list[str]) -> list[str] | None:
    """What the shardrank command is given, if that is what a command runs in the end."""
    if "--" in words and _submits(words[: words.index("--")]):
        return shardrank_words(words[words.index("--") + 1 :])
    if len(words) > 1 and words[0].startswith("python") and words[1].startswith("jobs/"):
        assert (PROJECT / words[1]).exists(), words[1]
        return None if _submits(words) else [Path(words[1]).stem, *words[2:]]
    if words[1:3] == ["-m", "shardrank"]:
        return words[3:]
    return words[1:] if words and words[0] == "shardrank" else None


def parse_command(given: list[str]) -> str:
    """Let click read a command's words, and the configuration its settings; nothing is run."""
    command = main.commands.get(given[0])
    assert command is not None, f"there is no command {given[0]}"
    with command.make_context(given[0], given[1:]) as context:
        job = context.params.get("job")
        shipped = PROJECT / job if job and job.startswith("configs/") else None
        load_config(shipped, [*_FLAGS, *context.params.get("settings", ())])
    return given[0]


def _submits(words: list[str]) -> bool:
    """True for Ray's and the project's own way of submitting a job."""
    return words[:3] == ["ray", "job", "submit"] or words[1:2] == ["jobs/submit.py"]


def _without_variables(words: list[str]) -> list[str]:
    """Words of a command, without assignments in front and redirections behind."""
    while words and re.match(r"^\w+=", words[0]):
        words = words[1:]
    for place, word in enumerate(words):
        if set(word) <= set("<>"):
            return words[:place]
    return words
