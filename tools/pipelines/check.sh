#!/usr/bin/env bash
# Load the example pipelines in the frameworks they are written for, each in an environment of its own,
# since neither framework's pins fit the project's. Needs a package index; takes some minutes once.
set -euo pipefail
cd "$(dirname "$0")/../.."
place=.venv-pipelines
ray=$(grep '^ray==' constraints.txt)

environment() {
    local name=$1
    shift
    if [ ! -e "$place/$name/.done" ]; then
        "${PYTHON:-python3}" -m venv "$place/$name"
        "$place/$name/bin/python" -m pip install --quiet "$@" "ray[default]${ray#ray}"
        touch "$place/$name/.done"
    fi
}

environment airflow "apache-airflow>=3" apache-airflow-providers-cncf-kubernetes
AIRFLOW_HOME="$PWD/$place/airflow/home" AIRFLOW__CORE__LOAD_EXAMPLES=False \
    "$place/airflow/bin/python" tools/pipelines/check_airflow.py infra/airflow
environment dagster dagster
"$place/dagster/bin/python" tools/pipelines/check_dagster.py infra/dagster/rerank_nightly.py
