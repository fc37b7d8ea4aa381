"""One Ray cluster for all tests of the job: starting it takes longer than most of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from shardrank.config import load_config
from shardrank.job.cluster import connected
from shardrank.job.opening import Job, open_job
from shardrank.job.rerank import JobResult, rerank
from shardrank.store.filesystem import Storage
from shardrank.store.verify import verify


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    with connected("local"):
        yield


class Folders:
    """An input and an output folder, and the job between them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.input = root / "in"
        self.output = root / "out"

    def settings(self, *settings: str) -> list[str]:
        return [
            f"input.path={self.input}",
            f"output.path={self.output}",
            "model.path=demo",
            "errors.max_rejected_fraction=1",
            "units.pairs=8",
            *settings,
        ]

    def run(self, *settings: str, **options: Any) -> JobResult:
        return rerank(load_config(None, self.settings(*settings)), **options)

    def open(self, *settings: str) -> Job:
        """Plan the job, and no more."""
        return open_job(load_config(None, self.settings(*settings)))

    def problems(self) -> tuple[str, ...]:
        """What an independent check of input against output finds."""
        return verify(str(self.input), Storage(str(self.output))).problems


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


@pytest.fixture(autouse=True)
def _only_our_cluster() -> Iterator[None]:
    """A test that starts a cluster of its own must not leave it to the next."""
    before = ray.is_initialized()
    yield
    assert ray.is_initialized() or not before
