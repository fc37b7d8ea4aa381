"""The labels as their consumers read them: real losses on a tiny model, real loaders.

Needs sentence-transformers, pylate and FlagEmbedding (make test-extra); a test whose library is not
installed is skipped.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from shardrank.job.labels import make_label_set
from shardrank.labels.formats import LabelFormat
from shardrank.labels.rules import LabelRules
from shardrank.store.filesystem import Storage
from store.small_job import do_job, nested

pytestmark = pytest.mark.extra

TEXTS = [[f"text {query} {place}" for place in range(6)] for query in range(8)]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "query", "text", *map(str, range(10))]
NUM_NEGATIVES = 3


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("output")
    pq.write_table(nested(*TEXTS), folder / "in.parquet", row_group_size=2)
    do_job(str(folder / "in.parquet"), Storage(str(folder / "out")), unit_pairs=12)
    return str(folder / "out")


def labels(output: str, target: Path, name: str, **form: Any) -> Path:
    rules = LabelRules(num_negatives=NUM_NEGATIVES)
    make_label_set(output, str(target), LabelFormat(name, **form), rules)
    return target


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BERT of a few hundred weights, made here: nothing is fetched."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    transformers.BertTokenizer(vocab={w: i for i, w in enumerate(VOCABULARY)}).save_pretrained(
        folder
    )
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    transformers.BertModel(config).save_pretrained(folder)
    return str(folder)


def parquet(folder: Path) -> Any:
    datasets = pytest.importorskip("datasets")
    files = [str(path) for path in sorted(folder.glob("*.parquet"))]
    return datasets.load_dataset("parquet", data_files=files, split="train")


def train(kind: str, model: Any, loss: Any, dataset: Any, folder: Path) -> float:
    """Two steps; the loss."""
    library = pytest.importorskip("sentence_transformers")
    arguments = {
        "output_dir": str(folder),
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
    }
    if kind == "cross-encoder":
        trainer, options = library.CrossEncoderTrainer, library.CrossEncoderTrainingArguments
    else:
        trainer = library.SentenceTransformerTrainer
        options = library.SentenceTransformerTrainingArguments
    found = trainer(
        model=model, args=options(**arguments), train_dataset=dataset, loss=loss
    ).train()
    return float(found.training_loss)


@pytest.mark.parametrize(
    ("name", "form", "loss", "columns"),
    [
        ("pointwise", {}, "MSELoss", ["query", "document", "label"]),
        ("margin-mse", {}, "MarginMSELoss", ["query", "positive", "negative", "label"]),
        (
            "margin-mse",
            {"tuples": True},
            "MarginMSELoss",
            ["query", "positive", *(f"negative_{i}" for i in (1, 2, 3)), "label"],
        ),
        ("listwise", {}, "ListNetLoss", ["query", "docs", "labels"]),
        ("listwise", {}, "LambdaLoss", ["query", "docs", "labels"]),
    ],
)
def test_a_cross_encoder_of_sentence_transformers_trains_on_it(
    output, bert, tmp_path, name: str, form: dict, loss: str, columns: list[str]
) -> None:
    library = pytest.importorskip("sentence_transformers")
    losses = pytest.importorskip("sentence_transformers.cross_encoder.losses")
    dataset = parquet(labels(output, tmp_path / "labels", name, **form))
    assert dataset.column_names == columns
    model = library.CrossEncoder(bert, num_labels=1)
    found = train(
        "cross-encoder", model, getattr(losses, loss)(model), dataset, tmp_path / "trained"
    )
    assert math.isfinite(found)
    assert found > 0


@pytest.mark.parametrize("form", [{}, {"tuples": True}])
def test_an_embedding_model_of_sentence_transformers_trains_on_margins(
    output, bert, tmp_path, form: dict
) -> None:
    library = pytest.importorskip("sentence_transformers")
    losses = pytest.importorskip("sentence_transformers.losses")
    dataset = parquet(labels(output, tmp_path / "labels", "margin-mse", **form))
    model = library.SentenceTransformer(bert)
    found = train("embedding", model, losses.MarginMSELoss(model), dataset, tmp_path / "trained")
    assert math.isfinite(found)
    assert found > 0


def test_a_student_that_agrees_with_the_teacher_has_no_loss(output, tmp_path) -> None:
    """The loss itself says that a label is what it takes it for: the positive less the negative."""
    torch = pytest.importorskip("torch")
    losses = pytest.importorskip("sentence_transformers.losses")
    rows = parquet(labels(output, tmp_path / "triples", "margin-mse"))
    points = parquet(labels(output, tmp_path / "points", "pointwise"))
    numbers = {text: number for number, text in enumerate(sorted({*points["document"]}))}
    teacher = torch.zeros(len(numbers))
    for row in points:
        teacher[numbers[row["document"]]] = row["label"]

    def agreeing(_: Any, documents: Any) -> Any:
        return teacher[documents[..., 0].long()]

    inputs = [
        torch.tensor([[float(numbers.get(text, 0))] for text in rows[name]])
        for name in ("query", "positive", "negative")
    ]
    loss = losses.MarginMSELoss(model=None, similarity_fct=agreeing)
    found = loss.compute_loss_from_embeddings(inputs, torch.tensor(rows["label"]))
    assert float(found) == pytest.approx(0.0, abs=1e-12)


def test_pylate_finds_every_query_and_document(output, tmp_path) -> None:
    utils = pytest.importorskip("pylate.utils")
    folder = labels(output, tmp_path / "labels", "pylate")
    train_set, queries, documents = (
        parquet(folder / name) for name in ("train", "queries", "documents")
    )
    train_set.set_transform(utils.KDProcessing(queries=queries, documents=documents).transform)
    assert len(train_set) == 8
    for row in train_set:
        assert row["query"].startswith("query")
        assert all(document.startswith("text") for document in row["documents"])
        assert len(row["scores"]) == len(row["documents"]) == 1 + NUM_NEGATIVES


def test_flagembedding_reads_scores_as_a_teachers(output, bert, tmp_path) -> None:
    abstract = pytest.importorskip("FlagEmbedding.abc.finetune.reranker")
    transformers = pytest.importorskip("transformers")
    distributed = pytest.importorskip("torch.distributed")
    folder = labels(output, tmp_path / "labels", "flagembedding")
    arguments = abstract.AbsRerankerDataArguments(
        train_data=[str(folder)],
        cache_path=str(tmp_path / "cache"),
        train_group_size=4,
        knowledge_distillation=True,
    )
    store = f"file://{tmp_path}/rendezvous"
    distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        dataset = abstract.AbsRerankerTrainDataset(
            arguments, transformers.AutoTokenizer.from_pretrained(bert)
        )
        assert len(dataset) == 8
        batch, scores = dataset[0]
    finally:
        distributed.destroy_process_group()
    assert len(batch) == len(scores) == 4
    assert scores[0] == max(scores)


def test_tevatron_finds_its_documented_fields(output, tmp_path) -> None:
    """Its package of today is not on the index; this is the schema that its TrainDataset reads."""
    datasets = pytest.importorskip("datasets")
    folder = labels(output, tmp_path / "labels", "tevatron")
    files = [str(path) for path in sorted(folder.glob("*.jsonl"))]
    found = datasets.load_dataset("json", data_files=files, split="train")
    assert found.column_names == ["query_id", "query", "positive_passages", "negative_passages"]
    assert set(found[0]["positive_passages"][0]) == {"docid", "text"}
    assert len(found[0]["negative_passages"]) == NUM_NEGATIVES
