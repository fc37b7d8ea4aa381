"""Sources on a hub: a server on this machine that speaks its API, met through its own client."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import environment
from hub_server import COMMIT, HubServer

ID = "Someone/Tiny-Reranker"
CONFIG = b'{"model_type": "qwen3"}'
WEIGHTS = bytes(range(256)) * 400

PROGRAM = """
import json, sys
from shardrank.errors import ModelError
from shardrank.store.source import local_source
try:
    found = local_source(sys.argv[1], sys.argv[2] or None)
except ModelError as error:
    sys.exit(f"refused: {error}")
print(json.dumps([str(found.path), found.name, found.revision]))
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    folder = tmp_path / "repository"
    files = {
        "config.json": CONFIG,
        "tokenizer.json": b"{}",
        "model.safetensors": WEIGHTS,
        "README.md": b"not needed",
        "pytorch_model.bin": b"not needed",
        "other/model.safetensors": b"not needed",
        "onnx/model_q4.onnx": b"graph",
        "onnx/model_q4.onnx_data": b"weights",
        "onnx/model.onnx": b"not needed",
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    with HubServer(ID, folder).running() as server:
        yield server


def fetch(
    hub: HubServer, source: str = ID, revision: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run local_source in a process of its own: the client reads its settings at import."""
    home = hub.folder.parent
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, source, revision],
        env=environment(
            **{
                "HF_ENDPOINT": hub.url,
                "HF_HOME": str(home / "hub"),
                "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                **variables,
            }
        ),
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def names_below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


def test_a_checkpoint_is_fetched_without_what_nobody_reads(hub: HubServer) -> None:
    done = fetch(hub)
    assert done.returncode == 0, done.stderr
    path, name, revision = json.loads(done.stdout)
    assert (name, revision) == (ID, COMMIT)
    assert names_below(Path(path)) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (Path(path) / "model.safetensors").read_bytes() == WEIGHTS


def test_one_export_of_a_repository_is_fetched_with_its_neighbours(hub: HubServer) -> None:
    done = fetch(hub, f"{ID}/onnx/model_q4.onnx")
    path, name, _ = json.loads(done.stdout)
    assert (Path(path).read_bytes(), name) == (b"graph", f"{ID}/onnx/model_q4.onnx")
    assert names_below(Path(path).parent.parent) == [
        "config.json",
        "onnx/model_q4.onnx",
        "onnx/model_q4.onnx_data",
        "tokenizer.json",
    ]


def test_a_connection_that_is_cut_goes_on_where_it_stopped(hub: HubServer) -> None:
    # The client keeps what has come in whole blocks of 10 MB.
    weights = bytes(range(256)) * 50_000
    (hub.folder / "model.safetensors").write_bytes(weights)
    hub.cut_after = 12_000_000
    done = fetch(hub)
    path, _, _ = json.loads(done.stdout)
    assert (Path(path) / "model.safetensors").read_bytes() == weights
    assert hub.fetched("model.safetensors") == [None, f"bytes={10 << 20}-"]


def test_a_download_that_failed_leaves_what_is_complete_and_nothing_else(hub: HubServer) -> None:
    hub.cut_after = 40_000
    failed = fetch(hub)
    assert "could not be fetched to its end" in failed.stderr
    blobs = list(hub.folder.parent.glob("hub/hub/*/blobs/*"))
    assert sorted(path.read_bytes() for path in blobs) == sorted([CONFIG, b"{}"])
    hub.cut_after = None
    hub.requests.clear()
    assert fetch(hub).returncode == 0
    assert hub.fetched("/config.json") == []


def test_what_is_complete_is_not_fetched_again(hub: HubServer) -> None:
    first = fetch(hub)
    hub.requests.clear()
    again = fetch(hub, revision="v1")
    assert again.stdout == first.stdout
    assert hub.fetched("/resolve/") == []


def test_a_fetched_source_is_found_without_a_hub(hub: HubServer) -> None:
    first = fetch(hub)
    assert fetch(hub, HF_HUB_OFFLINE="1").stdout == first.stdout


def test_a_path_that_exists_wins_over_a_hub_id(hub: HubServer) -> None:
    (hub.folder.parent / ID).mkdir(parents=True)
    done = fetch(hub)
    assert json.loads(done.stdout) == [ID, "Tiny-Reranker", None]
    assert hub.requests == []


@pytest.mark.parametrize(
    ("source", "revision", "error", "variables", "message"),
    [
        ("Someone/Other", "", None, {}, "neither a folder here nor a repository"),
        (ID, "", (403, "GatedRepo"), {}, "is gated; accept its terms"),
        (ID, "", (401, "RepoNotFound"), {}, "private one needs HF_TOKEN"),
        (ID, "v9", None, {}, "has no revision v9; check --revision"),
        (ID, "", None, {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE forbids"),
        (ID, "", None, {"HF_ENDPOINT": "http://127.0.0.1:9"}, "the hub cannot be reached"),
        (f"{ID}/onnx/absent.onnx", "", None, {}, "has no onnx/absent.onnx at a1a1"),
        ("Someone/-bad--id", "", None, {}, "there is no file or folder"),
        ("some--one/re..po", "", None, {}, "is no valid id"),
    ],
)
def test_each_failure_has_its_own_message(
    hub: HubServer,
    source: str,
    revision: str,
    error: tuple[int, str] | None,
    variables: dict[str, str],
    message: str,
) -> None:
    hub.error = error
    failed = fetch(hub, source, revision, **variables)
    assert failed.returncode == 1
    assert failed.stderr.startswith("refused: ")
    assert message in failed.stderr


def test_a_token_opens_a_gated_repository_and_is_never_shown(hub: HubServer) -> None:
    hub.token = "hf_planted"
    assert fetch(hub, HF_TOKEN="hf_planted").returncode == 0
    hub.token = "hf_other"
    hub.requests.clear()
    refused = fetch(hub, revision="v1", HF_TOKEN="hf_planted", HF_HOME=str(hub.folder.parent / "x"))
    assert refused.returncode == 1
    assert "hf_planted" not in refused.stderr


def test_a_client_that_is_not_installed_is_named(hub: HubServer) -> None:
    blocked = hub.folder.parent / "blocked" / "huggingface_hub"
    blocked.mkdir(parents=True)
    (blocked / "__init__.py").write_text("raise ImportError")
    failed = fetch(hub, PYTHONPATH=str(blocked.parent))
    assert 'pip install "shardrank[prepare]"' in failed.stderr
