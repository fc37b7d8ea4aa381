"""Repositories of the Hugging Face Hub, through its own client, which is imported when needed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shardrank.errors import ModelError

_DEFAULT_ENDPOINT = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository, or one export in it.

    id: owner/name. file: path of an .onnx file in it, or None for a checkpoint.
    revision: a branch, a tag or a commit; None for the main branch.
    """

    id: str
    file: str | None = None
    revision: str | None = None


def fetch_from_hub(
    source: HubSource, patterns: Sequence[str], cache_folder: str | Path | None = None
) -> Path:
    """The snapshot of a repository in the hub's cache; its name is the commit.

    patterns: what to fetch, as fnmatch patterns.
    cache_folder: None for the client's own, which HF_HOME moves. HF_ENDPOINT and HF_TOKEN are
    honoured by the client; complete files are never fetched again, also where the hub is away.

    Raises ModelError, saying which of the many failures it was.
    """
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError:
        raise ModelError(
            f"{source.id} is no folder here, and a hub repository needs huggingface_hub, which is "
            f'not installed; pip install "shardrank[prepare]", or give a folder.'
        ) from None
    try:
        snapshot = Path(
            snapshot_download(
                source.id,
                revision=source.revision,
                cache_dir=cache_folder,
                allow_patterns=list(patterns),
                # A pattern's * matches slashes too; other checkpoints may lie in folders.
                ignore_patterns=None if source.file else ["*/*"],
            )
        )
    except errors.GatedRepoError as error:
        raise _refused(
            source, "is gated", "accept its terms on its page, then set HF_TOKEN or `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise _refused(
            source,
            "is neither a folder here nor a repository that you may read there",
            "check the spelling; a private one needs HF_TOKEN or `hf auth login`",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise _refused(
            source, f"has no revision {source.revision}", "check --revision, or leave it out"
        ) from error
    except errors.HFValidationError as error:
        raise _refused(source, f"is no valid id ({error})", "give owner/name") from error
    except errors.LocalEntryNotFoundError as error:
        raise _refused(source, *_unreachable(error.__cause__ or error)) from error
    except Exception as error:  # the client's errors and its HTTP library's have no common base
        raise _refused(source, *_interrupted(error)) from error
    if not (snapshot / (source.file or "config.json")).is_file():
        raise _refused(
            source,
            f"has no {source.file or 'config.json'} at {snapshot.name[:12]}",
            "choose another repository, revision or file",
        )
    return snapshot


def _unreachable(cause: BaseException) -> tuple[str, str]:
    if type(cause).__name__ == "OfflineModeIsEnabled" or "HF_HUB_OFFLINE" in str(cause):
        return (
            "is not in the cache, and HF_HUB_OFFLINE forbids to fetch it",
            "unset HF_HUB_OFFLINE, or fetch it on a machine that may",
        )
    return (
        f"is not in the cache, and the hub cannot be reached ({_one_line(cause)})",
        "check the network, HF_ENDPOINT and the proxy, or give a folder",
    )


def _interrupted(error: Exception) -> tuple[str, str]:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"was refused (HTTP {status})", "check HF_TOKEN, or log in with `hf auth login`"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be kept ({error.strerror})", "make room, or move the cache with HF_HOME"
    return (
        f"could not be fetched to its end ({_one_line(error)})",
        "run the same command again: files that are complete stay",
    )


def _refused(source: HubSource, what: str, remedy: str) -> ModelError:
    endpoint = os.environ.get("HF_ENDPOINT", _DEFAULT_ENDPOINT).rstrip("/")
    return ModelError(f"{endpoint}/{source.id} {what}; {remedy}.")


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."
