"""Values of settings that need more than a type: places without secrets, names, sound text."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

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


Location = Annotated[str, Field(min_length=1), AfterValidator(_refuse_credentials)]
Name = Annotated[str, Field(min_length=1)]
Text = Annotated[str, AfterValidator(_refuse_broken_text)]
