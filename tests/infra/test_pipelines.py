"""The pipeline examples, as far as can be seen without their frameworks."""

from __future__ import annotations

import ast
import shlex
from pathlib import Path

import pytest

from documents import parse_command
from shardrank import errors
from strict_schemas import INFRA

PIPELINES = [INFRA / name / "rerank_nightly.py" for name in ("airflow", "dagster")]
TRIED_AGAIN = {errors.EXIT_DONE, errors.EXIT_INCOMPLETE}


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.parent.name)
def test_a_pipeline_tries_again_what_can_go_on_and_nothing_else(path: Path) -> None:
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    (final,) = [
        ast.literal_eval(node.value)
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FINAL_EXIT_CODES"
    ]
    assert final == codes - TRIED_AGAIN


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.parent.name)
def test_a_pipeline_runs_a_command_that_there_is(path: Path) -> None:
    nodes = ast.walk(ast.parse(path.read_text()))
    texts = [text_of(node) for node in nodes if isinstance(node, ast.JoinedStr)]
    commands = [text for text in texts if text.startswith("shardrank ")]
    assert [parse_command(shlex.split(command)[1:]) for command in commands] == ["rerank"]


def text_of(node: ast.JoinedStr) -> str:
    """A formatted string with something in each of its holes."""
    parts = [part.value if isinstance(part, ast.Constant) else "x" for part in node.values]
    return "".join(map(str, parts))
