"""Where a checkpoint or an export may be: on this machine, on a hub, or behind any fsspec URL.

What a user names is looked for in this order:

    a path that exists          it always wins, also over a hub id of the same spelling
    protocol://...              a folder, or one .onnx file, in object storage
    owner/name                  a repository of the Hugging Face Hub
    owner/name/path/file.onnx   one export of such a repository

Of a folder or a repository only the files that `prepare` reads are fetched.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path

from shardrank.errors import ModelError
from shardrank.store.filesystem import Storage
from shardrank.store.hub import HubSource, fetch_from_hub

DEFAULT_CACHE = Path("~/.cache/shardrank/sources")

_SMALL_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
_CHECKPOINT_FILES = (*_SMALL_FILES, "*.safetensors", "*.safetensors.index.json")
_HUB_ID = re.compile(r"(?P<id>\w[\w.-]*/\w[\w.-]*)(?:/(?P<file>.+\.onnx))?")
_COPY_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A source that lies on this machine now.

    path: a checkpoint's folder, or an .onnx file with its neighbours.
    name: what the record of a prepared model calls it: a base name or what the hub calls it, never
        a machine's path.
    revision: the commit on the hub, 40 hex digits; None for anything else.
    """

    path: Path
    name: str
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A remote file and its place below the folder that it is fetched into."""

    storage: Storage
    name: str
    size: int
    etag: str
    place: str


def local_source(
    source: str, revision: str | None = None, cache_folder: str | Path | None = None
) -> LocalSource:
    """Find a source, and fetch it if it is not on this machine.

    revision: a branch, a tag or a commit of a hub repository; None for its main branch.
    cache_folder: for what is fetched; None for the hub's own cache (HF_HOME), and for URLs
        ~/.cache/shardrank/sources. A download that was interrupted goes on at the next call.

    Raises ModelError if there is no such source or it cannot be kept, and InputError if a store
    cannot be read.
    """
    if not source:
        raise ModelError("an empty source was given; give a folder, a hub id or a URL.")
    path = Path(source).expanduser()
    found = _HUB_ID.fullmatch(source)
    is_remote = "://" in source
    if revision is not None and (path.exists() or is_remote or not found):
        raise ModelError(
            f"--revision {revision} was given and {source} is not the id of a hub repository; "
            f"leave --revision out, or give an id such as Qwen/Qwen3-Reranker-0.6B."
        )
    if path.exists():
        # Not resolved: in the hub's cache a file is a link to a blob, named by its hash.
        return LocalSource(path, Path(os.path.abspath(path)).name)
    if is_remote:
        return _fetched(source, Path(cache_folder or DEFAULT_CACHE).expanduser())
    if not found:
        raise ModelError(
            f"there is no file or folder {source}; give one, or the id of a hub repository such as "
            f"Qwen/Qwen3-Reranker-0.6B, or a URL such as s3://bucket/model."
        )
    wanted = HubSource(found["id"], found["file"], revision)
    snapshot = fetch_from_hub(wanted, _hub_patterns(wanted.file), cache_folder)
    return LocalSource(snapshot / (wanted.file or ""), source, snapshot.name)


def _hub_patterns(file: str | None) -> tuple[str, ...]:
    if file is None:
        return _CHECKPOINT_FILES
    beside = [str(Path(file).parent / name) for name in _SMALL_FILES]
    # Weights outside an .onnx file are called model.onnx_data, model.onnx.data, model.onnx_data_1.
    return (*_SMALL_FILES, *beside, f"{escape(file)}*")


def _fetched(url: str, cache: Path) -> LocalSource:
    plain = url.split("?")[0].rstrip("/")
    above, _, base = plain.rpartition("/")
    is_file = base.endswith(".onnx")
    folder = Storage(above if is_file else url, "input")
    name = above.rpartition("/")[2] if is_file else base
    patterns = (*_SMALL_FILES, f"{escape(base)}*") if is_file else _CHECKPOINT_FILES
    wanted = list(_files_of(folder, patterns, f"{name}/"))
    if is_file and not any(file.name == "tokenizer.json" for file in wanted):
        # On the hub an export lies in a folder below its tokenizer, and copies keep it so.
        wanted += _files_above(above)
    if not any(file.name == base or not is_file for file in wanted):
        raise ModelError(
            f"{folder.display(base if is_file else '')} is not there, or holds no config.json and "
            f"*.safetensors; check the URL."
        )
    root = _kept(wanted, cache)
    return LocalSource(root / name / base if is_file else root / name, base)


def _files_of(folder: Storage, patterns: tuple[str, ...], place: str) -> Iterator[_Wanted]:
    for file in folder.list_files(recursive=False):
        if any(fnmatchcase(file.path, pattern) for pattern in patterns):
            yield _Wanted(folder, file.path, file.size, file.etag, place + file.path)


def _files_above(folder: str) -> Iterator[_Wanted]:
    above = folder.rpartition("/")[0]
    if above.endswith(":/") or not above:
        return
    storage = Storage(above, "input")
    for name in _SMALL_FILES:
        if found := storage.stat(name):
            yield _Wanted(storage, name, found.size, found.etag, name)


def _kept(wanted: list[_Wanted], cache: Path) -> Path:
    """Fetch files into a folder named by what they are, once per machine, and give the folder."""
    identity = [[file.storage.url, file.name, file.size, file.etag] for file in wanted]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    partial, complete = cache / f".{key}.partial", cache / key
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / f".{key}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not complete.is_dir():
                for file in wanted:
                    _copy(file, partial / file.place)
                partial.rename(complete)
    except OSError as error:
        raise ModelError(
            f"cannot keep {wanted[0].storage.display()} in {cache}: {error.strerror or error}; "
            f"make room there, or choose another folder with --cache-folder, and run it again."
        ) from error
    return complete


def _copy(file: _Wanted, target: Path) -> None:
    """Fetch a file, or the rest of one; the key of the folder says that it is still the same."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("ab") as kept:
        if kept.tell() < file.size:
            with file.storage.open_input(file.name) as source:
                source.seek(kept.tell())
                shutil.copyfileobj(source, kept, _COPY_BYTES)
        num_bytes = kept.tell()
    if num_bytes != file.size:
        target.unlink()
        raise ModelError(
            f"{file.storage.display(file.name)} had {file.size} bytes and gave {num_bytes}; it "
            f"changed while it was fetched, so run the same command again."
        )
