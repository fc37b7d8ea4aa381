"""Values of settings that need more than a type: places without secrets, names, sound text."""

from __future__ import annotations

import re
import tomllib
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator

HOLDS_CREDENTIALS = (
    "holds credentials; give them to the storage library instead (environment, profile or "
    "service account)"
)


def _refuse_credentials(path: str) -> str:
    """Credentials in a URL would end up in logs and manifests.

    A secret may hold a slash, so a colon that begins no port number is enough to refuse.
    """
    if re.match(r"^[a-z0-9+.-]+://[^/]*(@|:(?!\d+(/|$)))", path, flags=re.IGNORECASE):
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
