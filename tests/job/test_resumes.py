"""What may change between two executions of a job: every setting of the tree, one by one."""

import os
import shutil
from pathlib import Path

import pytest

from job.test_fingerprints import CHANGED, NEUTRAL
from shardrank.config import load_config
from shardrank.errors import OutputMismatchError
from shardrank.job.opening import Job, open_job
from shardrank.testing import fake_model
from tables import row, write_nested

PATHS = ("input.path", "output.path", "model.path")
# Needs a finished output to take scores from: test_reuse.py resumes with it.
WITH_ANOTHER_OUTPUT = ("scoring.reuse",)
ACCEPTED = [key for key in NEUTRAL if key not in (*PATHS, *WITH_ANOTHER_OUTPUT)]


class Begun:
    """A job with a plan, in folders that can be moved."""

    def __init__(self, root: Path) -> None:
        self.root = root
        write_nested(root / "input" / "a.parquet", [row(number) for number in range(3)])
        fake_model(root / "model")
        self.plan = self.resume().plan

    def resume(self, *settings: str) -> Job:
        paths = [f"{key}={self.root / key.partition('.')[0]}" for key in PATHS]
        return open_job(load_config(None, [*paths, *settings]))


@pytest.fixture
def begun(tmp_path: Path) -> Begun:
    return Begun(tmp_path)


@pytest.mark.parametrize("key", CHANGED)
def test_a_resume_that_would_change_a_score_or_a_row_is_refused_by_name(
    begun: Begun, key: str
) -> None:
    before = sorted(begun.root.rglob("*"))
    with pytest.raises(OutputMismatchError, match=f"{key} was "):
        begun.resume(f"{key}={CHANGED[key]}")
    assert sorted(begun.root.rglob("*")) == before


@pytest.mark.parametrize(
    "key", [key for key in NEUTRAL if key not in (*PATHS, *WITH_ANOTHER_OUTPUT)]
)
def test_a_resume_that_changes_neither_goes_on_with_the_same_plan(begun: Begun, key: str) -> None:
    assert begun.resume(f"{key}={NEUTRAL[key]}").plan == begun.plan


@pytest.mark.parametrize("key", PATHS)
def test_what_was_moved_as_it_is_goes_on_with_the_same_plan(begun: Begun, key: str) -> None:
    shutil.move(begun.root / key.partition(".")[0], begun.root / "elsewhere")
    assert begun.resume(f"{key}={begun.root}/elsewhere").plan == begun.plan


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_a_resume_with_another_file_of_the_model_is_refused(begun: Begun, name: str) -> None:
    files = dict(begun.resume().model.files)
    fake_model(begun.root / "other", files={**files, name: "0" * 64})
    with pytest.raises(OutputMismatchError, match="model files"):
        begun.resume(f"model.path={begun.root}/other")


def test_a_resume_after_a_shard_was_written_again_is_refused_by_name(begun: Begun) -> None:
    os.utime(begun.root / "input/a.parquet", (1, 1))
    with pytest.raises(OutputMismatchError, match=r"changed: a\.parquet"):
        begun.resume()
