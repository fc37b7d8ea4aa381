from __future__ import annotations

from pathlib import Path

import pytest

from shardrank.engine.model import PreparedModel
from shardrank.testing import fake_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fake_model(tmp_path / "model")


@pytest.fixture
def model(folder: Path) -> PreparedModel:
    return PreparedModel.load(folder)
