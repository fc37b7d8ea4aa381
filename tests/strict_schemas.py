"""Schemas that refuse what they do not list.

Kubernetes drops unknown fields of custom resources without a word, so a misspelt one would be
accepted and do nothing. Here it is an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import yaml

PROJECT = Path(__file__).parents[1]
INFRA = PROJECT / "infra"

OBJECT_META: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string"},
        "generateName": {"type": "string", "pattern": "-$"},
        "namespace": {"type": "string"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}


def shared_folder(*parts: str) -> Path | None:
    """A folder of reference files beside the project or further up; None where there is none."""
    for folder in PROJECT.parents:
        found = folder.joinpath("shared", *parts)
        if found.is_dir():
            return found
    return None


def read_yaml(path: Path) -> list[dict[str, Any]]:
    """The documents of a YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def strict(schema: Any) -> Any:
    """The same schema, where every object that lists its fields allows no others."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    tightened = {key: strict(value) for key, value in schema.items()}
    lists_fields = isinstance(schema.get("properties"), dict) and "type" in schema
    if lists_fields and not schema.get("x-kubernetes-preserve-unknown-fields"):
        tightened.setdefault("additionalProperties", False)
    return tightened


def crd_schemas(folder: Path) -> dict[tuple[str, str], Any]:
    """Strict schemas by (apiVersion, kind) of every CRD in a folder."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    schemas = {}
    for path in sorted(folder.glob("*.yaml")):
        spec = yaml.load(path.read_text(), Loader=loader)["spec"]
        for version in spec["versions"]:
            schema = strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = OBJECT_META
            schemas[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = schema
    return schemas


def faults(document: Any, schema: Any) -> list[str]:
    """What is wrong, as `path: message`."""
    found = jsonschema.Draft202012Validator(schema).iter_errors(document)
    return [f"{error.json_path}: {error.message[:200]}" for error in found]
