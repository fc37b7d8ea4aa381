"""Values of settings that need more than a type, and the file and the names that they come by."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator

from shardrank.errors import ConfigError

HOLDS_CREDENTIALS = (
    "holds credentials; give them to the storage library instead (environment, profile or "
    "service account)"
)


def holds_credentials(url: str) -> bool:
    """Whether a URL, or one that it is chained to, names a user or a key.

    A secret may hold a slash, so a colon that begins no port number is enough.
    """
    pattern = r"(^|::)[a-z0-9+.-]+://[^/]*(@|:(?!\d+(/|$|::)|:))"
    return re.search(pattern, url, flags=re.IGNORECASE) is not None


def _refuse_credentials(path: str) -> str:
    """Credentials in a URL would end up in logs and manifests."""
    if holds_credentials(path):
        raise ValueError(HOLDS_CREDENTIALS)
    return path


def _refuse_broken_text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("is not valid Unicode text") from None
    return text


def _amounts(value: Any) -> dict[str, float]:
    """Positive numbers by name; on the command line a TOML table."""
    if isinstance(value, str):
        try:
            value = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            value = None
    if not isinstance(value, dict) or not all(
        name and type(amount) in (int, float) and 0 < amount < float("inf")
        for name, amount in value.items()
    ):
        raise ValueError("give a table of positive numbers, such as {scorer = 1.0}")
    return {name: float(amount) for name, amount in value.items()}


Location = Annotated[str, Field(min_length=1), AfterValidator(_refuse_credentials)]
Name = Annotated[str, Field(min_length=1)]
Text = Annotated[str, AfterValidator(_refuse_broken_text)]
Amounts = Annotated[dict[str, float], PlainValidator(_amounts)]
"""Amounts of custom Ray resources, by name."""


class Section(BaseModel):
    """A part of the tree: keys that it does not know and values of another kind are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def read_toml(path: Path) -> dict[str, Any]:
    """A configuration file as it is written. Raises ConfigError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def keys_of(model: type[BaseModel], prefix: str) -> list[str]:
    """The names of all settings below a section, `section.key`, in their order."""
    found: list[str] = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += keys_of(field.annotation, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}")
    return found
