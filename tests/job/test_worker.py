import json
import pickle
from typing import Any

import pyarrow as pa
import pytest

from shardrank.config import load_config
from shardrank.engine.model import file_sha256
from shardrank.errors import ConfigError
from shardrank.job.cluster import require_devices
from shardrank.job.drain import Brake
from shardrank.job.opening import open_job
from shardrank.job.parcel import Order
from shardrank.job.worker import Scorer, read, write
from shardrank.store.attempts import note_poison
from shardrank.testing import fake_model
from tables import row, write_nested, write_pairs


def test_a_workers_orders_are_equal_after_a_journey(tmp_path) -> None:
    """Worker processes keep their tokenizer by what they were told, so equal orders must match."""
    write_nested(tmp_path / "in" / "a.parquet", [row(1)])
    settings = [f"input.path={tmp_path}/in", f"output.path={tmp_path}/out", "model.path=demo"]
    spec = open_job(load_config(None, settings)).spec(threads=1)
    arrived = pickle.loads(pickle.dumps(spec))
    assert arrived == spec
    assert hash(arrived) == hash(spec)


def test_a_gpu_that_this_machine_lacks_is_an_error_and_not_a_wait() -> None:
    settings = ["input.path=i", "output.path=o", "model.path=m", "cluster.gpus_per_actor=1"]
    nodes = [{"Resources": {"CPU": 2.0}}]
    config = load_config(None, settings)
    with pytest.raises(ConfigError, match="Ray finds 0 GPUs"):
        require_devices(config, nodes, is_own=True)
    require_devices(config, nodes, is_own=False)


def scored(folders, *settings: str):
    """The stages of one job, driven one after the other, as Ray would."""
    job = open_job(load_config(None, folders.settings(*settings)))
    return job, job.spec(threads=1)


def finished(spec, parcel: pa.Table, scorer: Scorer | None = None) -> dict[str, Any]:
    """The receipt of a unit that was read."""
    scored = (scorer or Scorer(spec, Brake()))(parcel)
    receipt: dict[str, Any] = json.loads(write(scored, spec)["receipt"][0].as_py())
    return receipt


def one_row(unit) -> pa.Table:
    return pa.Table.from_pylist([Order(unit, 1, 3).to_row()])


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_a_model_exchanged_while_the_job_runs_scores_nothing(folders, tmp_path, name) -> None:
    """A job is bound to the hashes it was planned with, not to what lies there now."""
    write_nested(folders.input / "a.parquet", [row(1)])
    fake_model(tmp_path / "model")
    job, spec = scored(folders, f"model.path={tmp_path}/model")
    file = tmp_path / "model" / name
    file.write_bytes(file.read_bytes() + b"\n")
    description = json.loads((tmp_path / "model" / "reranker.json").read_text())
    description["files"][name] = file_sha256(file)
    (tmp_path / "model" / "reranker.json").write_text(json.dumps(description))
    parcel = read(one_row(job.plan.units[0]), spec, Brake())
    receipt = finished(spec, parcel)
    assert receipt["code"] == "ModelError"
    assert "exchanged while the job ran" in receipt["message"]
    assert not list(folders.output.glob("*.parquet"))


def test_a_unit_passes_all_stages_without_ray(folders, tmp_path) -> None:
    write_nested(folders.input / "a.parquet", [row(1), row(2)])
    fake_model(tmp_path / "model")
    job, spec = scored(folders, f"model.path={tmp_path}/model")
    parcel = read(one_row(job.plan.units[0]), spec, Brake())
    receipt = finished(spec, parcel)
    assert (receipt["outcome"], receipt["counts"]["pairs_out"]) == ("committed", 8)
    assert folders.problems() == ()


@pytest.mark.parametrize("layout", ["nested", "pairs"])
@pytest.mark.parametrize("setting", ["output.top_k=2", "output.min_score=0.5"])
def test_what_a_job_cut_is_no_problem_to_verify(folders, tmp_path, layout, setting) -> None:
    writes = write_nested if layout == "nested" else write_pairs
    writes(folders.input / "a.parquet", [row(number, 6) for number in range(3)])
    fake_model(tmp_path / "model")
    job, spec = scored(folders, f"model.path={tmp_path}/model", setting, f"input.layout={layout}")
    for unit in job.plan.units:
        receipt = finished(spec, read(one_row(unit), spec, Brake()))
        assert receipt["outcome"] == "committed"
    assert folders.problems() == ()


@pytest.mark.parametrize("layout", ["nested", "pairs"])
def test_a_row_that_is_known_to_kill_is_rejected_and_not_scored(folders, tmp_path, layout) -> None:
    writes = write_nested if layout == "nested" else write_pairs
    writes(folders.input / "a.parquet", [row(number) for number in range(3)])
    fake_model(tmp_path / "model")
    settings = (f"model.path={tmp_path}/model", f"input.layout={layout}", "units.pairs=100")
    job, spec = scored(folders, *settings)
    [unit] = job.plan.units
    note_poison(job.output, unit, 1)
    order = pa.Table.from_pylist([Order(unit, 1, 3, (1,)).to_row()])
    receipt = finished(spec, read(order, spec, Brake()))
    assert receipt["counts"]["rows_rejected"] == 1
    assert folders.problems() == ()


def test_a_unit_that_used_up_its_attempts_is_not_scored(folders, tmp_path) -> None:
    write_nested(folders.input / "a.parquet", [row(1)])
    fake_model(tmp_path / "model")
    job, spec = scored(folders, f"model.path={tmp_path}/model")
    parcel = read(one_row(job.plan.units[0]), spec, Brake())
    scorer = Scorer(spec, Brake())
    for _ in range(3):
        scorer(parcel)
    receipt = finished(spec, parcel, scorer)
    assert (receipt["outcome"], receipt["code"]) == ("failed", "worker_died")


def test_once_the_brake_is_on_no_unit_begins_and_no_attempt_is_counted(folders, tmp_path) -> None:
    rows = [row(number) for number in range(3)]
    write_nested(folders.input / "a.parquet", rows, row_group_size=1)
    fake_model(tmp_path / "model")
    job, spec = scored(folders, f"model.path={tmp_path}/model", "units.pairs=1")
    brake = Brake()
    scorer = Scorer(spec, brake)
    first, second, third = (one_row(unit) for unit in job.plan.units)
    before, late = (read(order, spec, brake) for order in (first, second))
    assert finished(spec, before, scorer)["outcome"] == "committed"
    assert brake.put_on() == {0}
    for parcel in (late, read(third, spec, brake)):
        assert finished(spec, parcel, scorer)["code"] == "stopped"
    assert [path.name for path in folders.output.glob("_shardrank/attempts/*")] == ["000000-1.json"]
