"""The judge and the judged share no code: `verify` must not be wrong where the writer is."""

import ast
from pathlib import Path

STORE = Path(__file__).parents[2] / "src/shardrank/store"

MAY_KNOW = {
    "shardrank.errors": None,
    "shardrank.types": None,
    "shardrank.store.filesystem": {"Storage"},
    # What was asked for, and where things lie; not how they are read, checked, ranked or written.
    "shardrank.store.plan": {"Plan", "load_plan", "TOP_K", "MIN_SCORE"},
    "shardrank.store.units": {"list_shards", "output_name"},
    "shardrank.store.commits": {"FAILED_FOLDER", "SUCCESS_NAME"},
}


def imports_of(path: Path) -> list[tuple[str, str]]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = [
        (alias.name, "") for node in nodes if isinstance(node, ast.Import) for alias in node.names
    ]
    return plain + [
        (node.module or "", alias.name)
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]


def test_verify_shares_no_code_with_what_wrote_the_rows() -> None:
    files = sorted(STORE.glob("verify*.py"))
    assert len(files) >= 5
    foreign = {
        (path.name, module, name)
        for path in files
        for module, name in imports_of(path)
        if module.startswith("shardrank") and not module.startswith("shardrank.store.verify")
        if module not in MAY_KNOW or (MAY_KNOW[module] is not None and name not in MAY_KNOW[module])
    }
    assert foreign == set()


def test_nothing_that_writes_rows_uses_the_judge() -> None:
    users = {
        path.name
        for path in STORE.glob("*.py")
        if not path.name.startswith("verify")
        if any(module.startswith("shardrank.store.verify") for module, _ in imports_of(path))
    }
    assert users == set()
