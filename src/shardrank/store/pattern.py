"""Which relative paths an input's URL means."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from shardrank.errors import InputError

_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A glob over relative paths: `*`, `?` and `[...]` within a name, `**` across folders.

    text: the glob; empty for everything below the root.
    is_file: True where `text` is the plain name of one file.
    """

    text: str
    is_file: bool = False

    @staticmethod
    def one(name: str) -> Pattern:
        """The file of that name."""
        return Pattern(name, is_file=True)

    @staticmethod
    def split(url: str, is_folder: Callable[[str], bool]) -> tuple[str, Pattern]:
        """Divide a URL into a root and the glob below it.

        is_folder: whether there is a folder at a URL that holds wildcards: then it is one, and the
            glob begins below it.

        Raises InputError for a glob that cannot be read.
        """
        parts = url.rstrip("/").split("/")
        plain = 0
        while plain < len(parts) and (
            not _MAGIC.search(parts[plain]) or is_folder("/".join(parts[: plain + 1]))
        ):
            plain += 1
        glob = "/".join(parts[plain:])
        try:
            re.compile(_regex(glob))
        except re.error as error:
            raise InputError(
                f"the glob {glob!r} cannot be read: {error.msg}; mend its [...]"
            ) from error
        return "/".join(parts[:plain]) or "/", Pattern(glob)

    @property
    def is_folder(self) -> bool:
        """True where everything below the root is meant."""
        return not self.text

    def matches(self, path: str) -> bool:
        """True if the path itself is meant."""
        if self.is_file:
            return path == self.text
        return bool(self.text) and re.fullmatch(_regex(self.text), path) is not None

    def matches_folder_of(self, path: str) -> bool:
        """True if a folder that holds the path is meant."""
        if self.is_folder:
            return True
        folders = path.split("/")[:-1]
        return any(self.matches("/".join(folders[: i + 1])) for i in range(len(folders)))


def _regex(glob: str) -> str:
    parts: list[str] = []
    for piece in re.findall(r"\*\*/|\*\*|\*|\?|\[[!^]?\]?[^\]]*\]|.", glob, flags=re.DOTALL):
        if piece == "**/":
            parts.append("(?:.*/)?")
        elif piece == "**":
            parts.append(".*")
        elif piece == "*":
            parts.append("[^/]*")
        elif piece == "?":
            parts.append("[^/]")
        elif len(piece) > 1:
            body = piece[1:-1].replace("\\", r"\\")
            negated = body[:1] in ("!", "^")
            parts.append(f"[^/{body[1:]}]" if negated else f"(?!/)[{body}]")
        else:
            parts.append(re.escape(piece))
    return "(?s:" + "".join(parts) + ")"
