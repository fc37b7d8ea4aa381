"""Every shipped configuration loads, so that none can go stale."""

import re
import tomllib
from pathlib import Path

import pytest

from shardrank.config import known_keys, load_config, parse_config
from shardrank.errors import ConfigError

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.toml"))
REQUIRED = {"input": {"path": "in"}, "output": {"path": "out"}, "model": {"path": "demo"}}
FLAGS = ["input.path=in", "output.path=out", "model.path=demo"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_configuration_loads(path: Path) -> None:
    assert load_config(path).input.path


def test_there_are_configurations_to_load() -> None:
    assert len(CONFIGS) >= 4


def test_flags_alone_are_enough() -> None:
    assert load_config(None, FLAGS).model.path == "demo"


def test_the_last_setting_wins_over_the_file() -> None:
    config = load_config(CONFIGS[0], ["units.pairs=7", "units.pairs=8"])
    assert config.units.pairs == 8


@pytest.mark.parametrize(
    ("setting", "section", "value"),
    [
        ("output.top_k=5", "output", ("top_k", 5)),
        ("output.min_score=0.5", "output", ("min_score", 0.5)),
        ("output.top_k=none", "output", ("top_k", None)),
        ("prompt.instruction=42", "prompt", ("instruction", "42")),
        ("prompt.instruction=", "prompt", ("instruction", "")),
        ("prompt.instruction=a=b", "prompt", ("instruction", "a=b")),
        ("cluster.gpus_per_actor=1", "cluster", ("gpus_per_actor", 1.0)),
    ],
)
def test_a_setting_is_typed_by_its_field(
    setting: str, section: str, value: tuple[str, object]
) -> None:
    config = load_config(None, [*FLAGS, setting])
    assert getattr(getattr(config, section), value[0]) == value[1]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("scoring.thread=4", "unknown configuration key scoring.thread; did you mean"),
        ("scoring.threads=x", "scoring.threads = 'x': input should be a valid integer"),
        ("scoring.threads=0", "scoring.threads = '0': input should be greater than or equal to 1"),
        ("scoring.threads", "has no '='"),
        ("input=3", "unknown configuration key input; did you mean input.path?"),
        ("output.columns.rank=score", "two columns are called 'score'"),
        ("output.layout=pairs", "output.layout = 'pairs' differs"),
        ("output.min_score=2", "output.min_score"),
        ("output.min_score=nan", "output.min_score"),
        ("cluster.cpus_per_actor=inf", "cluster.cpus_per_actor"),
        ("prompt.instruction=\ud800", "is not valid Unicode text"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(setting: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(None, [*FLAGS, setting])
    assert message in str(error.value)


def test_an_unknown_key_in_a_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"output\.to_k; did you mean output\.top_k"):
        parse_config({**REQUIRED, "output": {"path": "out", "to_k": 3}})


def test_a_file_is_as_strict_about_types_as_the_command_line() -> None:
    with pytest.raises(ConfigError, match=r"output\.top_k = '3'"):
        parse_config({**REQUIRED, "output": {"path": "out", "top_k": "3"}})


def test_what_is_missing_is_named_with_the_way_to_give_it() -> None:
    with pytest.raises(ConfigError, match=r"input\.path is missing: .* --set input\.path="):
        load_config(None, FLAGS[1:])


@pytest.mark.parametrize("key", ["input.path", "output.path", "model.path", "model.cache_folder"])
def test_credentials_in_a_path_are_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(ConfigError, match="holds credentials") as error:
        load_config(None, [*FLAGS, f"{key}=s3://key:planted@bucket/folder"])
    assert "planted" not in str(error.value)


@pytest.mark.parametrize(
    "path",
    [
        *("s3://key:abc/sec@bucket/x", "s3://key:abc/def/x", "s3://k@b/x"),
        "simplecache::s3://key:abc@bucket/x",
    ],
)
def test_a_secret_with_a_slash_is_still_one(path: str) -> None:
    with pytest.raises(ConfigError, match="holds credentials"):
        load_config(None, [*FLAGS, f"input.path={path}"])


@pytest.mark.parametrize(
    "path", ["s3://bucket/a@b/c:d", "hdfs://name:8020/x", "http://h:80", "zip::s3://b"]
)
def test_a_port_and_an_at_in_a_key_are_no_secret(path: str) -> None:
    assert load_config(None, [*FLAGS, f"input.path={path}"]).input.path == path


def test_a_missing_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "absent.toml")


def test_a_file_that_is_not_toml_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text("input = [")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        load_config(tmp_path / "job.toml")


def test_every_key_can_be_set_from_the_command_line() -> None:
    for key in known_keys():
        with pytest.raises(ConfigError) as error:
            load_config(None, [f"{key}=\x00"])
        assert "unknown configuration key" not in str(error.value)


def test_custom_resources_are_a_table_of_amounts() -> None:
    found = load_config(None, [*FLAGS, "cluster.actor_resources={scorer = 1}"])
    assert found.cluster.actor_resources == {"scorer": 1.0}


@pytest.mark.parametrize("text", ["5", "{a = -1}", "{a = true}", "{a = inf}", "{a", "scorer"])
def test_resources_that_are_no_amounts_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="cluster.task_resources .* table of positive numbers"):
        load_config(None, [*FLAGS, f"cluster.task_resources={text}"])


def test_the_reference_lists_every_key_with_its_default() -> None:
    text = (CONFIGS[0].parent / "reference.toml").read_text()
    uncommented = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)
    listed = tomllib.loads(uncommented)
    assert sorted(flattened(listed)) == sorted(known_keys())
    plain = load_config(None, ["input.path=candidates", "output.path=reranked", "model.path=demo"])
    assert parse_config(tomllib.loads(text)) == plain


def flattened(tree: dict[str, object], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, value in tree.items():
        path = f"{prefix}{name}"
        is_section = isinstance(value, dict) and path not in known_keys()
        keys += flattened(value, f"{path}.") if is_section else [path]
    return keys
