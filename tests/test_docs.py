"""The pages cannot go stale: links lead somewhere, commands and settings are real."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from documents import (
    PAGES,
    PROJECT,
    Block,
    anchors_of,
    blocks,
    commands_of,
    links_of,
    parse_command,
    shardrank_words,
)
from shardrank.config import known_keys, parse_config
from strict_schemas import INFRA, read_yaml

REQUIRED = {"input": {"path": "in"}, "output": {"path": "out"}, "model": {"path": "demo"}}


def name(page: Path) -> str:
    return str(page.relative_to(PROJECT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_link_leads_somewhere(page: Path) -> None:
    for target in links_of(page):
        if re.match(r"^\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path) if path else page
        assert found.exists(), f"{name(page)} links to {target}, which is not there"
        if anchor and found.suffix == ".md":
            assert anchor in anchors_of(found), f"{name(page)}: no heading for {target}"


def test_there_is_something_to_test() -> None:
    assert len(PAGES) > 10
    assert len(blocks("sh")) > 10
    assert len(run_by_pages()) > 20


@pytest.mark.parametrize("block", blocks("sh"), ids=str)
def test_a_command_on_a_page_is_one_that_shardrank_takes(block: Block) -> None:
    for words in commands_of(block.text):
        given = shardrank_words(words)
        if given is not None:
            parse_command(given)


def test_a_command_with_a_mistake_is_found() -> None:
    for line in (
        "shardrank rerank --inptu candidates/",
        "shardrank reranc job.toml",
        "shardrank rerank configs/local.toml --set output.topk=3",
        "ray job submit --address http://HEAD:8265 -- python jobs/rerank.py --set units.pairs=many",
    ):
        (words,) = commands_of(line)
        given = shardrank_words(words)
        assert given is not None
        with pytest.raises(Exception, match=r"inptu|reranc|topk|units\.pairs"):
            parse_command(given)


def test_a_command_in_infra_is_one_that_shardrank_takes() -> None:
    parsed = [parse_command(words) for words in run_by_infra()]
    assert len(parsed) >= 8


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_settings_on_a_page_are_real(block: Block) -> None:
    tree: dict[str, Any] = tomllib.loads(block.text)
    parse_config({key: {**REQUIRED.get(key, {}), **tree.get(key, {})} for key in REQUIRED | tree})


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_on_a_page_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


def test_the_page_of_settings_is_what_the_classes_say() -> None:
    command = [sys.executable, "tools/config_reference.py"]
    made = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    written = (PROJECT / "docs" / "configuration.md").read_text()
    assert written == made, "run: python tools/config_reference.py > docs/configuration.md"


def test_every_setting_is_on_the_page_and_says_what_it_means() -> None:
    rows = (PROJECT / "docs" / "configuration.md").read_text().splitlines()
    settings = [row.split("|")[1:5] for row in rows if row.startswith("| `")]
    assert len(settings) == len(known_keys())
    assert all(meaning.strip() for _, _, _, meaning in settings)
    assert not any("Undefined" in default for _, default, _, _ in settings)


def test_every_page_is_in_the_index() -> None:
    index = PROJECT / "docs" / "README.md"
    linked = {(index.parent / target.partition("#")[0]).resolve() for target in links_of(index)}
    pages = {path.resolve() for path in (PROJECT / "docs").glob("*.md")} - {index.resolve()}
    assert {str(page) for page in pages - linked} == set()


def run_by_pages() -> list[list[str]]:
    found = [shardrank_words(words) for block in blocks("sh") for words in commands_of(block.text)]
    return [words for words in found if words is not None]


def run_by_infra() -> list[list[str]]:
    """Every shardrank command of a manifest, wherever in it it stands."""
    found: list[list[str]] = []
    for path in sorted(INFRA.rglob("*.yaml")):
        for document in read_yaml(path):
            found += _commands(document)
    return found


def _commands(node: Any) -> list[list[str]]:
    if isinstance(node, list):
        if "shardrank" in node and len(node) > 1:
            return [[str(word) for word in node[node.index("shardrank") + 1 :]]]
        return [words for part in node for words in _commands(part)]
    if isinstance(node, dict):
        if isinstance(node.get("command"), list) and "shardrank" in node["command"]:
            node = {"command": [*node["command"], *node.get("args", [])]}
        return [words for part in node.values() for words in _commands(part)]
    if isinstance(node, str) and "shardrank rerank" in node:
        script = node.replace("\\\n", " ").strip()
        line = script[script.index("shardrank rerank") :].rstrip("'")
        return [shlex.split(line)[1:]]
    return []
