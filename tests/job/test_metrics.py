"""What is documented, shown and alerted on is what a job exports."""

import json
import re
from pathlib import Path

import yaml

from shardrank.job.metered import Batches, MeteredSession
from shardrank.job.metrics import METRICS, OUTPUT, Metric
from shardrank.testing import FakeSession

PROJECT = Path(__file__).parent.parent.parent
MONITORING = PROJECT / "infra" / "monitoring"
BY_EXPORTED = {metric.exported: metric for metric in METRICS.values()}
SELECTOR = re.compile(r"(ray_shardrank_\w+)\s*(?:\{([^}]*)\})?")


def dashboard() -> dict:
    return json.loads((MONITORING / "grafana-dashboard.json").read_text())


def rules() -> list[dict]:
    (group,) = yaml.safe_load((MONITORING / "prometheus-rules.yaml").read_text())["groups"]
    return group["rules"]


def expressions() -> list[str]:
    panels = dashboard()["panels"]
    shown = [target["expr"] for panel in panels for target in panel["targets"]]
    variables = [entry.get("definition", "") for entry in dashboard()["templating"]["list"]]
    return [*shown, *variables, *(rule["expr"] for rule in rules())]


def labels_of(metric: Metric) -> set[str]:
    return {OUTPUT, *metric.labels}


def test_dashboard_and_rules_use_only_metrics_that_exist() -> None:
    used = {name for text in expressions() for name, _ in SELECTOR.findall(text)}
    assert used <= set(BY_EXPORTED)
    assert used == set(BY_EXPORTED), "a metric that nobody looks at"


def test_dashboard_and_rules_use_only_labels_that_exist() -> None:
    for text in expressions():
        for name, matchers in SELECTOR.findall(text):
            named = set(re.findall(r"(\w+)\s*[=!]~?", matchers))
            assert named <= labels_of(BY_EXPORTED[name]), text
        grouped = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", text))))
        used = [BY_EXPORTED[name] for name, _ in SELECTOR.findall(text)]
        assert grouped <= set().union(*map(labels_of, used), {OUTPUT}), text


def test_expressions_are_balanced_and_rules_whole() -> None:
    for text in expressions():
        assert text.count("(") == text.count(")"), text
        assert text.count("{") == text.count("}"), text
    alerts = [rule for rule in rules() if "alert" in rule]
    assert {rule["alert"] for rule in alerts} >= {
        "ShardrankStalled",
        "ShardrankSlow",
        "ShardrankRejecting",
    }
    for rule in alerts:
        assert re.fullmatch(r"\d+[smh]", rule["for"])
        assert {"summary", "description"} <= rule["annotations"].keys()
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_panels_lie_beside_each_other_and_have_numbers_of_their_own() -> None:
    places = [panel["gridPos"] for panel in dashboard()["panels"]]
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(places)
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_every_metric_is_documented_with_its_labels_and_its_meaning() -> None:
    text = (PROJECT / "docs" / "metrics.md").read_text()
    documented = {
        name: (kind, set(re.findall(r"`(\w+)`", labels)), meaning)
        for name, kind, labels, meaning in re.findall(
            r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| ([^|]*) \|$", text, flags=re.MULTILINE
        )
    }
    assert documented == {
        name: (metric.kind, labels_of(metric), metric.meaning)
        for name, metric in BY_EXPORTED.items()
    }


def test_a_metered_session_counts_runs_tokens_and_padding() -> None:
    import numpy as np

    session = MeteredSession(FakeSession())
    ids = np.arange(8).reshape(2, 4)
    mask = np.array([[1, 1, 1, 1], [0, 0, 1, 1]])
    assert np.array_equal(session.run(ids, mask), FakeSession().run(ids, mask))
    assert session.take() == Batches(runs=1, tokens=6, padding=2)
    assert session.take() == Batches()
