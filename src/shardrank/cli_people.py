"""The commands of people who have scores: evaluate, labels, gather, report.

Each parses, calls one function of a room below, and prints, as those in cli.py do.
"""

from __future__ import annotations

import json
from typing import Any

import click

from shardrank.labels.rules import FORMATS, SAMPLINGS

_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
_PARTIAL = click.option("--partial", is_flag=True, help="Take what an unfinished output has.")
_QRELS_HELP = (
    "TREC, BEIR or Parquet file, or column:NAME: a field of the candidates with each one's "
    "grade, or a column of the rows with a list of relevant ids."
)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))


@click.command()
@click.argument("output", metavar="OUTPUT")
@click.option("--qrels", required=True, help=_QRELS_HELP)
@click.option(
    "--measures",
    default="nDCG@10,RR@10,AP,R@100",
    show_default=True,
    help="Names of ir_measures, between commas.",
)
@click.option("--by", metavar="COLUMN", help="Also for each value of a column, such as language.")
@click.option("--before", metavar="RUN", help="TREC run to compare with, not the input's order.")
@click.option("--trec-run", metavar="FILE", help="Write the ranking; trec_eval orders it as we do.")
@click.option(
    "--p-mrr",
    "changed",
    metavar="FILE",
    help="FollowIR's changed documents (qrels or Parquet): p-MRR of QUERY-og to QUERY-changed.",
)
@_PARTIAL
@_JSON
def evaluate(output: str, qrels: str, as_json: bool, **options: Any) -> None:
    """Measure an output before and after reranking, with a paired test."""
    from shardrank.job.evaluate import evaluate as run
    from shardrank.job.evaluation import render_evaluation

    found = run(output, qrels, **options)
    if as_json:
        _print_json(found.as_dict())
    else:
        click.echo(render_evaluation(found))


@click.command()
@click.argument("output", metavar="OUTPUT")
@click.option(
    "--format",
    "name",
    required=True,
    type=click.Choice(FORMATS),
    help="pointwise, margin-mse and listwise are Parquet for sentence-transformers.",
)
@click.option("--output", "target", required=True, help="A new folder for the labels.")
@click.option("--qrels", help=f"{_QRELS_HELP} Without: the teacher's best is the positive.")
@click.option("--min-relevance", default=1, show_default=True, help="Least grade of a positive.")
@click.option("--max-positives", type=int, help="The best-scored of each query [default: all].")
@click.option(
    "--negatives",
    "num_negatives",
    type=int,
    help="Most of each query [default: all for pointwise and listwise, else 8]. Formats of a fixed "
    "width (pylate, margin-mse with --tuples) leave out queries that have fewer.",
)
@click.option(
    "--ranks",
    metavar="FROM-TO",
    default="1-",
    show_default=True,
    help="Ranks that negatives may have, such as 10-100.",
)
@click.option(
    "--margin",
    type=float,
    help="Log-odds that a negative lies at least below the worst positive taken.",
)
@click.option(
    "--relative-margin",
    type=float,
    help="A negative's score is at most (1 - this) of the worst positive's (NV-Retriever: 0.05).",
)
@click.option(
    "--max-negative-score",
    type=float,
    help="Ceiling of a negative's score (0 to 1), against unjudged positives.",
)
@click.option(
    "--sampling",
    type=click.Choice(SAMPLINGS),
    default="top",
    show_default=True,
    help="Of the negatives that are left: the best-scored, any, or evenly over the log-odds.",
)
@click.option("--seed", default=0, show_default=True, help="Of the sampling, with each query's id.")
@click.option("--tuples", is_flag=True, help="margin-mse: one row a positive, all its negatives.")
@click.option("--ids", is_flag=True, help="sentence-transformers' Parquet: ids as columns too.")
@click.option("--address", help="A Ray cluster [default: this machine, or the Ray job's cluster].")
@_PARTIAL
@_JSON
def labels(
    output: str,
    name: Any,
    target: str,
    qrels: str | None,
    ranks: str,
    tuples: bool,
    ids: bool,
    address: str | None,
    partial: bool,
    as_json: bool,
    **rules: Any,
) -> None:
    """Make training labels of an output: raw log-odds, in the format of a trainer.

    The same command again goes on where it stopped, and the same rules give the same labels.
    """
    from shardrank.job.labels import make_label_set, render_label_set
    from shardrank.labels.formats import LabelFormat
    from shardrank.labels.rules import LabelRules

    rank_from, rank_to = _rank_range(ranks)
    found = make_label_set(
        output,
        target,
        LabelFormat(name, tuples=tuples, ids=ids),
        LabelRules(rank_from=rank_from, rank_to=rank_to, **rules),
        qrels=qrels,
        partial_output=partial,
        address=address,
    )
    if as_json:
        _print_json(found.as_dict())
    else:
        click.echo(render_label_set(found))


def _rank_range(text: str) -> tuple[int, int | None]:
    first, dash, last = text.partition("-")
    if dash and first.isdecimal() and (not last or last.isdecimal()):
        return int(first), int(last) if last else None
    raise click.UsageError(f"--ranks {text!r} is no range; write it as 10-100, or 10- for no end")


@click.command()
@click.option("--run", required=True, help="TREC run, or Parquet with query_id, doc_id, score.")
@click.option("--queries", required=True, help="Parquet, JSON lines or TSV: a file or a folder.")
@click.option("--corpus", required=True, help="Likewise; BEIR's and MS MARCO's own files fit.")
@click.option("--output", required=True, help="A new folder for the shards.")
@click.option(
    "--top-k", type=click.IntRange(1), help="Best candidates of each query [default: all]."
)
@click.option(
    "--layout", type=click.Choice(["nested", "pairs"]), default="nested", show_default=True
)
@click.option("--keep-title", is_flag=True, help="A field `title`, not in front of the text.")
@click.option("--fail-on-missing", is_flag=True, help="Missing ids are an error, not a note.")
@click.option("--address", help="A Ray cluster [default: this machine, or the Ray job's cluster].")
@_JSON
def gather(as_json: bool, **options: Any) -> None:
    """Join a first stage's run with its queries and corpus: candidates in shards.

    The corpus may be larger than memory; the run and the queries may not. The first stage's score
    becomes first_stage_score.
    """
    from shardrank.job.gather import gather as run
    from shardrank.job.gather import render_gathered

    found = run(**options)
    if as_json:
        _print_json(found.as_dict())
    else:
        click.echo(render_gathered(found))


@click.command()
@click.argument("output", metavar="OUTPUT")
@click.option("--compare", metavar="OTHER", help="Another output over the same queries.")
@click.option("--html", metavar="FILE", help="[default: _shardrank/report.html in the output]")
@click.option("--qrels", help=f"For the margins of positives. {_QRELS_HELP}")
def report(output: str, **options: Any) -> None:
    """Make report.html of an output: one file, for looking rather than reading."""
    from shardrank.job.report_page import render_summary, write_page

    click.echo(render_summary(*write_page(output, **options)))


@click.command()
@click.argument("input_path", metavar="INPUT")
@click.option("--output", required=True, help="A new folder for the shards.")
@click.option("--layout", required=True, type=click.Choice(["nested", "pairs"]), help="To have.")
@click.option(
    "--column",
    "names",
    multiple=True,
    metavar="KEY=NAME",
    help="What the input calls a column, such as text=passage; repeatable.",
)
@click.option(
    "--row-column",
    "row_columns",
    multiple=True,
    metavar="NAME",
    help="To nested: a column of the query, not of the document; repeatable.",
)
@click.option("--address", help="A Ray cluster [default: this machine, or the Ray job's cluster].")
@_JSON
def convert(input_path: str, names: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Turn shards of lists into shards of pairs, or the other way round.

    Every column passes through. The same command again goes on where it stopped.
    """
    from shardrank.config import InputColumns
    from shardrank.job.convert import convert as run
    from shardrank.job.convert import render_converted

    given = dict(name.partition("=")[::2] for name in names)
    unknown = sorted(given.keys() - InputColumns.model_fields.keys())
    if unknown or not all(given.values()):
        raise click.UsageError(
            f"--column {(unknown or sorted(given))[0]!r} does not fit; write it as KEY=NAME, where "
            f"KEY is one of {', '.join(InputColumns.model_fields)}"
        )
    found = run(input_path, columns=InputColumns(**given), **options)
    if as_json:
        _print_json(found.as_dict())
    else:
        click.echo(render_converted(found))


COMMANDS = (convert, evaluate, labels, gather, report)
