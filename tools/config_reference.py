"""Print docs/configuration.md: `python tools/config_reference.py > docs/configuration.md`.

What a setting is called, may hold and defaults to comes from the classes in shardrank.config; what
it means, from the comments in configs/reference.toml, so that neither is written twice. Where the
classes leave a default open, the comment's last part, behind the last semicolon, says it.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from shardrank.config import Config

REFERENCE = Path(__file__).parent.parent / "configs" / "reference.toml"
_SETTING = re.compile(r"^(?:# )?(?P<key>\w+) = (?P<value>[^#]*?)(?:\s+# (?P<meaning>.*))?$")
_MORE = re.compile(r"^\s+# (?P<meaning>.*)$")
_KINDS = {str: "text", int: "whole number", float: "number", bool: "true or false"}
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}

HEAD = """\
# Configuration

<!-- Made by tools/config_reference.py from shardrank.config and configs/reference.toml. -->

A job is one TOML file, `--set section.key=value` on the command line, or both; the last one wins. A
key that is not listed here, or a value of another kind, is an error that names it. `--set key=none`
takes back an optional setting. Nothing is read from environment variables; credentials are the
storage library's business (environment, profile or role) and are refused in a path. Where no
default stands, the last column says what holds.

```sh
shardrank plan configs/local.toml --set output.top_k=20 --set scoring.max_batch_tokens=8192
```

[configs/reference.toml](../configs/reference.toml) is the same as a file to start from; one file
for each situation lies [beside it](../configs).
"""


def main() -> None:
    print(HEAD, end="")
    meanings = read_meanings(REFERENCE.read_text())
    for path, section in sections(Config, ""):
        print(f"\n## [{path}]\n\n{paragraph(section)}\n")
        print("| setting | default | may be | |\n|---|---|---|---|")
        for name, field in section.model_fields.items():
            if not is_section(field.annotation):
                held, meaning = default(field), meanings.get(f"{path}.{name}") or "as above"
                if not held and "; " in meaning:
                    meaning, _, held = meaning.rpartition("; ")
                print(f"| `{name}` | {held} | {kind(field)} | {meaning} |")


def sections(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Every section that holds settings of its own, in the order of the tree."""
    for name, field in model.model_fields.items():
        if is_section(field.annotation):
            section: Any = field.annotation
            yield f"{path}{name}", section
            yield from sections(section, f"{path}{name}.")


def read_meanings(text: str) -> dict[str, str]:
    """The comment behind each setting, by `section.key`; later lines of comment go on with it."""
    meanings: dict[str, str] = {}
    section = key = ""
    for line in text.splitlines():
        if line.startswith("["):
            section, key = line.split("]")[0].strip("["), ""
        elif found := _SETTING.match(line):
            key = f"{section}.{found['key']}"
            meanings[key] = found["meaning"] or ""
        elif key and (more := _MORE.match(line)):
            meanings[key] += f" {more['meaning']}"
    return meanings


def is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def paragraph(section: type[BaseModel]) -> str:
    """A class's docstring, in a page's words: what is None in Python is left out in TOML."""
    return re.sub(r"None (?!of)", "no value ", " ".join((section.__doc__ or "").split()))


def default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    value = field.get_default(call_default_factory=True)
    return "" if value is None else f"`{toml(value)}`"


def kind(field: FieldInfo) -> str:
    """What a value may be, with its bounds."""
    inner = [part for part in alternatives(field.annotation) if part is not type(None)]
    words, metadata = [], list(field.metadata)
    for part in inner:
        plain = part
        while hasattr(plain, "__metadata__"):
            metadata += plain.__metadata__
            plain = plain.__origin__
        if get_origin(plain) is Literal:
            words += [f"`{toml(choice)}`" for choice in get_args(plain)]
        else:
            words.append(_KINDS.get(plain, "table"))
    bounds = [bound for item in metadata for bound in bounds_of(item)]
    return ", ".join(words) + ("; " + ", ".join(bounds) if bounds else "")


def alternatives(annotation: Any) -> list[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        return list(get_args(annotation))
    return [annotation]


def bounds_of(item: Any) -> Iterator[str]:
    for part in [item, *getattr(item, "metadata", ())]:
        for name, words in _BOUNDS.items():
            bound = getattr(part, name, None)
            if bound is not None:
                yield f"{words} {bound:g}"


def toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    return f"{value:_}" if isinstance(value, int | float) else str(value)


if __name__ == "__main__":
    main()
