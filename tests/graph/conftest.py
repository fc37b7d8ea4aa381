"""Small random checkpoints, prepared once for all tests that read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from graph_models import SHAPES, Built, build
from oracles.checkpoints import make_random_checkpoint


@pytest.fixture(scope="session", params=sorted(SHAPES))
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """One prepared model of each shape."""
    return build(tmp_path_factory.mktemp(request.param), SHAPES[request.param])


@pytest.fixture(scope="session")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """One prepared model, where the shape does not matter."""
    return build(tmp_path_factory.mktemp("grouped"), SHAPES["grouped"])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of one layer, to be spoilt."""
    return make_random_checkpoint(tmp_path / "checkpoint", SHAPES["one layer"])
