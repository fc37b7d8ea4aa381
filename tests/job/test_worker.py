import pickle

import pytest

from shardrank.config import load_config
from shardrank.errors import ConfigError
from shardrank.job.cluster import require_devices
from shardrank.job.opening import open_job
from tables import row, write_nested


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
