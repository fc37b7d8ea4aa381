"""Load a folder of DAGs as Airflow's scheduler does: `python check_airflow.py FOLDER`."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from airflow.dag_processing.dagbag import DagBag


def load(folder: Path) -> DagBag:
    return DagBag(str(folder), collect_dags=True)


def main(folder: Path) -> None:
    bag = load(folder)
    assert not bag.import_errors, bag.import_errors
    (dag,) = bag.dags.values()
    order = [task.task_id for task in dag.topological_sort()]
    assert order == ["rerank", "verify", "labels"], order
    assert dag.max_active_runs == 1
    with TemporaryDirectory() as planted:
        text = (folder / "rerank_nightly.py").read_text()
        Path(planted, "planted.py").write_text(
            text.replace("service_account_name", "service_acount")
        )
        assert load(Path(planted)).import_errors, "a misspelt argument was not found"
    print(f"airflow: {dag.dag_id}: {' -> '.join(order)}; a planted mistake was found")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
