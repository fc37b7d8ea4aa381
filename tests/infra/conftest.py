"""Schemas, read once."""

from __future__ import annotations

from typing import Any

import pytest

from strict_schemas import crd_schemas, shared_folder


@pytest.fixture(scope="session")
def kuberay() -> dict[tuple[str, str], Any]:
    folder = shared_folder("reference", "kuberay-crds")
    if folder is None:
        pytest.skip("needs the CRDs of KubeRay among the shared reference files")
    return crd_schemas(folder)
