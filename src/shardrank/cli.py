"""The commands. Each parses, calls one function of a room below, prints, and exits.

Results go to stdout, everything else to stderr; `--json` prints one JSON document to stdout and
nothing else. Heavy imports wait until the command that needs them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from shardrank import __version__
from shardrank.cli_people import COMMANDS
from shardrank.cli_prepare import prepare
from shardrank.cli_prepare import prompt_style as as_prompt_style
from shardrank.config import Config, load_config
from shardrank.errors import (
    EXIT_FAILED,
    IncompleteError,
    InputError,
    ModelError,
    ShardrankError,
)

_EXTRAS = {
    "onnxruntime": "cpu",
    "s3fs": "s3",
    **dict.fromkeys(("onnx", "ml_dtypes", "huggingface_hub"), "prepare"),
    **dict.fromkeys(("ir_measures", "scipy", "jinja2", "matplotlib", "polars"), "eval"),
}
"""Which extra of the package brings a module that a command may lack."""

_GO_ON = ("rerank", "labels", "convert", "gather")
"""Commands that go on where they were interrupted."""

_ABOVE_ZERO = click.FloatRange(min=0.0, min_open=True)

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class _Commands(click.Group):
    """Turns our own errors into one message and their exit code."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except ShardrankError as error:
            click.echo(f"shardrank: {error}", err=True)
            context.exit(error.exit_code)
        except ModuleNotFoundError as error:
            extra = _EXTRAS.get((error.name or "").partition(".")[0])
            if extra is None:
                raise
            message = (
                f'{error.name} is not installed; pip install "shardrank[{extra}]", in a checkout '
                f'pip install -e ".[{extra}]"'
            )
            click.echo(f"shardrank: {message}", err=True)
            context.exit(EXIT_FAILED)
        except KeyboardInterrupt:
            message = "interrupted"
            if context.invoked_subcommand in _GO_ON:
                message += "; the same command again goes on from the last committed unit"
            click.echo(f"\nshardrank: {message}", err=True)
            context.exit(IncompleteError.exit_code)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="shardrank")
def main() -> None:
    """Offline reranking of Parquet shards with Qwen3-Reranker: nothing lost, nothing twice.

    Start with `shardrank demo`.
    """


for _command in (prepare, *COMMANDS):
    main.add_command(_command)


def _job_options(command: Callable[..., Any]) -> Callable[..., Any]:
    options: list[Decorator] = [
        click.argument("job", required=False, type=click.Path(), metavar="[JOB.toml]"),
        click.option("--input", "input_path", help="Same as --set input.path=..."),
        click.option("--output", "output_path", help="Same as --set output.path=..."),
        click.option("--model", "model_path", help="Same as --set model.path=...; or demo."),
        click.option("--top-k", type=int, help="Same as --set output.top_k=..."),
        click.option(
            "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any setting; repeatable."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _config(
    job: str | None,
    input_path: str | None,
    output_path: str | None,
    model_path: str | None,
    top_k: int | None,
    settings: tuple[str, ...],
) -> Config:
    flags = {
        "input.path": input_path,
        "output.path": output_path,
        "model.path": model_path,
        "output.top_k": top_k,
    }
    overrides = [f"{key}={value}" for key, value in flags.items() if value is not None]
    return load_config(job, [*overrides, *settings])


@main.command()
@click.option("--output", type=click.Path(), help="Output folder [default: a new shardrank-demo].")
def demo(output: str | None) -> None:
    """Rerank the built-in candidates with the built-in model, and show what it did."""
    from shardrank.job.demo import run_demo

    run_demo(output, echo=click.echo, progress=sys.stderr)


@main.command()
@_job_options
def rerank(**options: Any) -> None:
    """Rerank a folder of Parquet shards; run it again to go on where it stopped."""
    from shardrank.job.stopping import stops_on_sigterm

    with stops_on_sigterm():
        from shardrank.job.logs import logging_as
        from shardrank.job.rerank import rerank as run

        config = _config(**options)
        with logging_as(config.logging.format):
            run(config, progress=sys.stderr, echo=click.echo)


@main.command()
@_job_options
@click.option("--actors", type=click.IntRange(1), help="How many [default: as the job now].")
@click.option("--pairs-per-second", type=_ABOVE_ZERO, help="Of an actor, instead of measuring.")
@click.option("--tokens-per-second", type=_ABOVE_ZERO, help="Of an actor, instead of measuring.")
@click.option("--price-per-hour", type=_ABOVE_ZERO, help="Of what an actor runs on.")
@click.option("--seconds", type=_ABOVE_ZERO, default=10.0, show_default=True, help="To measure.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def plan(
    actors: int | None,
    pairs_per_second: float | None,
    tokens_per_second: float | None,
    price_per_hour: float | None,
    seconds: float,
    as_json: bool,
    **options: Any,
) -> None:
    """Say what a job would do and take: units, tokens, hours, cost. Writes nothing."""
    from shardrank.job.estimate import PlanOptions, estimate
    from shardrank.job.estimate_text import render_estimate

    if pairs_per_second is not None and tokens_per_second is not None:
        raise click.UsageError("give either --pairs-per-second or --tokens-per-second, not both")
    told = PlanOptions(actors, pairs_per_second, tokens_per_second, price_per_hour, seconds)
    found = estimate(_config(**options), told)
    click.echo(_json(found.as_dict()) if as_json else render_estimate(found))


@main.command()
@click.argument("output", metavar="OUTPUT")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option("--watch", is_flag=True, help="Look again every few seconds until it is done.")
def status(output: str, as_json: bool, watch: bool) -> None:
    """Say what is done, pending and rejected in an output folder."""
    from shardrank.job.status import render_status, watch_status

    for standing in watch_status(output, follow=watch):
        click.echo(_json(standing.as_dict()) if as_json else render_status(standing))


@main.command()
@click.argument("input_path", metavar="INPUT")
@click.argument("output", metavar="OUTPUT")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def verify(input_path: str, output: str, as_json: bool) -> None:
    """Prove from the input that every pair is accounted for exactly once."""
    from dataclasses import asdict

    from shardrank.store.filesystem import Storage
    from shardrank.store.verify import render_verify
    from shardrank.store.verify import verify as run

    result = run(input_path, Storage(output, "output"))
    click.echo(_json(asdict(result)) if as_json else render_verify(result))
    if not result.ok:
        sys.exit(1)


@main.command()
@click.argument("model")
@click.option("--reference", help="Checkpoint (as for prepare) or another build to compare with.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def check(model: str, reference: str | None, device: Any, as_json: bool) -> None:
    """Prove a prepared model before a long job does; writes the findings into the model."""
    from shardrank.check.checks import check as run
    from shardrank.check.checks import record
    from shardrank.store.source import local_source

    folder = _local_model(model)
    report = run(folder, local_source(reference).path if reference else None, device=device)
    # Printed first: a folder that cannot be written must not cost the answer.
    click.echo(_json({"model": model, **report.as_dict()}) if as_json else report.render())
    if "://" in model:
        click.echo(f"shardrank: nothing was written to {model}, which was only read", err=True)
    else:
        try:
            record(folder, report)
        except ModelError as error:
            click.echo(f"shardrank: warning: {error}", err=True)
    if report.verdict == "fail":
        sys.exit(EXIT_FAILED)


@main.command()
@click.argument("model")
@click.argument("query", required=False)
@click.argument("documents", nargs=-1, metavar="[DOCUMENT]...")
@click.option("--instruction", help="Instead of the model's own.")
@click.option("--prompt", "prompt_style", help="Prompt style instead of the model's own.")
@click.option("--show-ids", is_flag=True, help="With --json: the token ids of each prompt.")
@click.option("--pairs", type=click.Path(), help="JSON lines of {query, document, instruction?}.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]))
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def score(
    model: str,
    query: str | None,
    documents: tuple[str, ...],
    instruction: str | None,
    prompt_style: str | None,
    show_ids: bool,
    pairs: str | None,
    device: Any,
    as_json: bool,
) -> None:
    """Score documents for a query: shardrank score -- MODEL QUERY DOCUMENT...

    After -- everything is text, also what begins with a dash.
    """
    from shardrank.engine.pair_scores import Pair, parse_pairs, score_pairs
    from shardrank.engine.reranker import Reranker

    if pairs is None and (query is None or not documents):
        raise click.UsageError("give a QUERY and at least one DOCUMENT, or --pairs FILE.jsonl")
    if pairs is not None and query is not None:
        raise click.UsageError("give either QUERY and DOCUMENTs or --pairs, not both")
    if pairs is None:
        wanted = [Pair(query or "", document) for document in documents]
    else:
        wanted = parse_pairs(_read_text(pairs).split("\n"), pairs)
    reranker = Reranker(
        _local_model(model),
        device=device,
        prompt_style=as_prompt_style(prompt_style) if prompt_style else None,
        instruction=instruction,
    )
    results = score_pairs(reranker, wanted, show_ids=show_ids)
    if as_json:
        click.echo(_json({"model": model, "prompt": reranker.prompts.style, "results": results}))
        return
    for result in results:
        text = " ".join(wanted[result["index"]].document.split())
        cut = " (document cut)" if result["truncated"] else ""
        click.echo(
            f"{result['rank']:3d}  {result['log_odds']:+9.4f}  {result['score']:.4f}  "
            f"{text[:100]}{cut}"
        )


def _local_model(model: str) -> Path:
    from shardrank.job.model_folder import local_folder

    return local_folder(model)


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
