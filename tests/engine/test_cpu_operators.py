"""The operators for CPUs against numpy, as compiled for this processor and for plainer ones."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from shardrank.engine.machine import read_processor
from shardrank.engine.operators import build_cpu_library
from shardrank.graph.half_linear import pack_halves
from shardrank.graph.integer_linear import pack_integers
from shardrank.graph.rotation import rotate_values

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")

IS_X86 = platform.machine() == "x86_64"
BUILDS: dict[str, Sequence[str] | None] = {"this processor": None, "a plain one": ()}
if IS_X86:
    BUILDS["no bfloat16"] = ("-march=native", "-DWITHOUT_BFLOAT16")
    if "avx512_bf16" in read_processor():
        BUILDS["bfloat16"] = ("-march=native",)
    if "avx2" in read_processor():
        BUILDS["avx2"] = ("-march=x86-64-v3",)
    if "avx512bw" in read_processor():
        BUILDS["avx512"] = ("-march=x86-64-v4",)
    # No processor here may have the instructions: a header stands in for them.
    header = Path(__file__).with_name("matrix_tiles_in_c.h")
    BUILDS["matrix tiles"] = ("-march=x86-64-v3", "-D__AMX_INT8__", "-include", str(header))
    if "avx_vnni" in read_processor():
        BUILDS["avx2 with vnni"] = ("-march=x86-64-v3", "-mavxvnni")
EPSILON = 1e-6
OUTPUTS = {
    "RowQuantize": 2, "IntegerProduct": 1, "SumNorm": 2, "SumNormQuantize": 3, "SiluProduct": 1,
    "HalfProduct": 1, "PackedAttention": 3,
}  # fmt: skip


class Library:
    """The operators of one build."""

    def __init__(self, path: Path, rounds: bool) -> None:
        self.path = path
        # Keys, values and shares have 8 bits where the processor multiplies bfloat16.
        self.tolerance = 2.0**-6 if rounds else 2e-6

    def run(self, operator: str, arrays: Mapping[str, np.ndarray], **attributes: Any) -> list[Any]:
        kinds = {
            "float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "uint8": TensorProto.UINT8,
            "int8": TensorProto.INT8, "int32": TensorProto.INT32,
        }  # fmt: skip
        # Sessions take no bfloat16 of numpy's: such an array is a constant.
        given = {name: array for name, array in arrays.items() if str(array.dtype) in kinds}
        constants = [
            helper.make_tensor(name, TensorProto.BFLOAT16, array.shape, array.tobytes(), raw=True)
            for name, array in arrays.items()
            if name not in given
        ]
        outputs = [f"output.{n}" for n in range(OUTPUTS[operator])]
        node = helper.make_node(operator, list(arrays), outputs, domain="shardrank", **attributes)
        types = [TensorProto.FLOAT] * len(outputs)
        types[0] = TensorProto.UINT8 if "Quantize" in operator else TensorProto.FLOAT
        graph = helper.make_graph(
            [node],
            "one",
            [
                helper.make_tensor_value_info(name, kinds[str(array.dtype)], [None] * array.ndim)
                for name, array in given.items()
            ],
            [
                helper.make_tensor_value_info(*each, None)
                for each in zip(outputs, types, strict=True)
            ],
            initializer=constants,
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("shardrank", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        options = onnxruntime.SessionOptions()
        options.register_custom_ops_library(str(self.path))
        options.intra_op_num_threads = 2
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        return list(session.run(outputs, given))


@pytest.fixture(scope="module", params=BUILDS)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    path = build_cpu_library(tmp_path_factory.mktemp("cache"), BUILDS[request.param])
    rounds = request.param == "bfloat16"
    if request.param == "this processor":
        rounds = "avx512_bf16" in read_processor() and "GenuineIntel" not in read_processor()
    return Library(path, rounds)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("rotation", [1, 4, 32])
@pytest.mark.parametrize("shape", [(1, 32), (37, 96), (5, 3072)])
def test_tokens_are_rounded_to_steps_of_their_own(
    library: Library, shape: tuple[int, int], rotation: int
) -> None:
    values = normal(*shape) * np.logspace(-6, 6, shape[0], dtype=np.float32)[:, None]
    integers, scales = library.run("RowQuantize", {"values": values}, rotation=rotation)
    rotated = rotate_values(values, rotation).astype(np.float64)
    largest = np.abs(rotated).max(axis=1, keepdims=True)
    np.testing.assert_allclose(scales, largest / 127, rtol=1e-6)
    assert integers.min() >= 1
    # Half a step, and what a float32 product is off by.
    assert np.abs(rotated / scales - (integers.astype(np.float64) - 128)).max() < 0.5001


def test_halves_are_rounded_to_even_and_zeros_stay(library: Library) -> None:
    values = np.zeros((2, 16), np.float32)
    values[0, :6] = 127, 0.5, 1.5, 2.5, -0.5, -2.5
    integers, scales = library.run("RowQuantize", {"values": values}, rotation=1)
    assert (integers[0].astype(int) - 128)[:6].tolist() == [127, 0, 2, 2, 0, -2]
    assert (integers[1] == 128).all()
    assert 0 < scales[1, 0] < 1e-20


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_makes_its_whole_token_so(library: Library, bad: float) -> None:
    values = normal(3, 64)
    values[1, 17] = bad
    _, scales = library.run("RowQuantize", {"values": values}, rotation=1)
    assert np.isfinite(scales[:, 0]).tolist() == [True, False, True]


def test_sums_are_normed(library: Library) -> None:
    residual, values, weight = normal(35, 96), normal(35, 96, seed=1), normal(96, seed=2)
    arrays = {"residual": residual, "values": values, "weight": weight}
    normed, total = library.run("SumNorm", arrays, epsilon=EPSILON)
    expected = residual.astype(np.float64) + values
    np.testing.assert_allclose(total, expected, rtol=1e-5, atol=1e-6)
    root = np.sqrt((expected**2).mean(-1, keepdims=True) + EPSILON)
    np.testing.assert_allclose(normed, expected / root * weight, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 32), (35, 96), (3, 1024)])
def test_norms_that_are_rounded_at_once_are_those_that_are_rounded_later(
    library: Library, shape: tuple[int, int]
) -> None:
    arrays = {
        "residual": normal(*shape),
        "values": normal(*shape, seed=1),
        "weight": normal(shape[1], seed=2),
    }
    normed, total = library.run("SumNorm", arrays, epsilon=EPSILON)
    expected = [*library.run("RowQuantize", {"values": normed}, rotation=1), total]
    found = library.run("SumNormQuantize", arrays, epsilon=EPSILON)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_gates_open_as_they_should(library: Library) -> None:
    gate = np.linspace(-100, 100, 20 * 48, dtype=np.float32).reshape(20, 48)
    up = normal(20, 48)
    (found,) = library.run("SiluProduct", {"gate": gate, "up": up})
    np.testing.assert_allclose(found, silu(gate) * up, rtol=2e-5, atol=1e-6)


def silu(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return values / (1 + np.exp(-values.astype(np.float64)))


class Integers:
    """Random inputs of IntegerProduct, at both ends of their ranges too."""

    def __init__(self, num_tokens: int, num_inputs: int, num_outputs: int) -> None:
        random = np.random.default_rng(num_tokens)
        self.tokens = random.integers(1, 256, (num_tokens, num_inputs)).astype(np.uint8)
        self.tokens[0] = 255
        self.weight = random.integers(-127, 128, (num_outputs, num_inputs)).astype(np.int8)
        self.weight[0], self.weight[-1] = 127, -127
        self.scales = np.exp(normal(num_tokens, 1))
        self.weight_scales = np.exp(normal(num_outputs, seed=1)) / num_inputs

    def run(self, library: Library, rows: slice = slice(None), gated: int = 0) -> np.ndarray:
        arrays = {
            "integers": self.tokens[rows],
            "scales": self.scales[rows],
            "weight": pack_integers(self.weight),
            "weight_scales": self.weight_scales,
            "offsets": 128 * self.weight.sum(axis=1, dtype=np.int32),
        }
        (found,) = library.run("IntegerProduct", arrays, gated=gated)
        return np.asarray(found)

    def expected(self) -> np.ndarray:
        sums = (self.tokens.astype(np.int64) - 128) @ self.weight.astype(np.int64).T
        return np.asarray(sums * self.scales.astype(np.float64) * self.weight_scales)


SHAPES = [(1, 32, 32), (13, 64, 96), (15, 96, 64), (37, 1024, 64), (201, 3072, 32)]


@pytest.mark.parametrize("shape", SHAPES)
def test_products_of_integers_are_exact_up_to_their_scales(
    library: Library, shape: tuple[int, int, int]
) -> None:
    case = Integers(*shape)
    np.testing.assert_allclose(case.run(library), case.expected(), rtol=3e-7)


@pytest.mark.parametrize("shape", SHAPES)
def test_gated_products_are_those_of_both_weights(
    library: Library, shape: tuple[int, int, int]
) -> None:
    case = Integers(*shape)
    gates, ups = np.moveaxis(case.expected().reshape(shape[0], -1, 2, 16), 2, 0)
    expected = (silu(gates) * ups).reshape(shape[0], -1)
    np.testing.assert_allclose(case.run(library, gated=1), expected, rtol=2e-5, atol=1e-30)


@pytest.mark.parametrize("num_tokens", [14, 29, 64, 150])
def test_products_of_integers_are_the_same_bits_alone_and_together(
    library: Library, num_tokens: int
) -> None:
    case = Integers(num_tokens, 3072, 64)
    for gated in (0, 1):
        together = case.run(library, gated=gated)
        for rows in (slice(0, 1), slice(num_tokens // 3, num_tokens), slice(5, 11)):
            alone = case.run(library, rows, gated)
            np.testing.assert_array_equal(alone, together[rows])


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("weight", np.ones((2, 12, 32, 4), np.int8), r"a weight is \[n / 32, inputs / 4, 32, 4\]"),
        ("weight", np.ones((2, 16, 16, 4), np.int8), "a weight is"),
        ("scales", np.ones((2, 1), np.float32), "a scale for each token"),
        ("weight_scales", np.ones(32, np.float32), "a scale and an offset for each column"),
        ("offsets", np.ones(32, np.int32), "a scale and an offset for each column"),
    ],
)
def test_integers_that_do_not_fit_are_an_error(
    library: Library, name: str, array: np.ndarray, message: str
) -> None:
    arrays = {
        "integers": np.ones((3, 64), np.uint8),
        "scales": np.ones((3, 1), np.float32),
        "weight": np.ones((2, 16, 32, 4), np.int8),
        "weight_scales": np.ones(64, np.float32),
        "offsets": np.ones(64, np.int32),
    }
    with pytest.raises(Exception, match=message):
        library.run("IntegerProduct", arrays | {name: array}, gated=0)


@pytest.mark.parametrize("shape", [(1, 16, 32), (8, 64, 96), (37, 1024, 64), (9, 96, 3072)])
def test_products_with_weights_in_bfloat16(library: Library, shape: tuple[int, int, int]) -> None:
    num_tokens, num_inputs, num_outputs = shape
    values, weight = normal(num_tokens, num_inputs), normal(num_outputs, num_inputs, seed=1)
    weight = weight.astype(ml_dtypes.bfloat16).astype(np.float32)
    arrays = {"values": values, "weight": pack_halves(weight)}
    (found,) = library.run("HalfProduct", arrays)
    expected = values.astype(np.float64) @ weight.T.astype(np.float64)
    assert np.abs(found - expected).max() < 3 * library.tolerance * np.sqrt(num_inputs)
    for rows in (slice(0, 1), slice(num_tokens // 2, num_tokens)):
        some = {"values": values[rows], "weight": arrays["weight"]}
        np.testing.assert_array_equal(library.run("HalfProduct", some)[0], found[rows])


def test_a_weight_of_another_shape_is_an_error(library: Library) -> None:
    weight = pack_halves(normal(32, 32))
    with pytest.raises(Exception, match=r"a weight is \[n / 32, inputs / 2, 32, 2\]"):
        library.run("HalfProduct", {"values": normal(3, 64), "weight": weight})


class Attention:
    """Random inputs of the operator, and what numpy makes of them, in float64."""

    def __init__(
        self,
        lengths: Sequence[int],
        past: int = 0,
        past_rows: int = 1,
        heads: tuple[int, int] = (4, 2),
        size: int = 32,
        keeps: bool = True,
        seed: int = 0,
    ) -> None:
        self.lengths, self.past, self.heads, self.size = lengths, past, heads, size
        tokens, positions = sum(lengths), past + max(lengths, default=0)
        angles = np.outer(np.arange(positions + 1), 0.6 ** np.arange(size // 2))
        shape = (past_rows, heads[1], past, size)
        self.arrays = {
            "query": normal(tokens, heads[0] * size, seed=seed),
            "key": normal(tokens, heads[1] * size, seed=seed + 1),
            "value": normal(tokens, heads[1] * size, seed=seed + 2),
            "query_weight": 1 + 0.2 * normal(size, seed=seed + 3),
            "key_weight": 1 + 0.2 * normal(size, seed=seed + 4),
            "cosines": np.cos(angles).astype(np.float32),
            "sines": np.sin(angles).astype(np.float32),
            "ends": np.cumsum(lengths, dtype=np.int64),
            "past_key": normal(*shape, seed=seed + 5),
            "past_value": normal(*shape, seed=seed + 6),
            "keeps_past": np.array([int(keeps)], np.int64),
        }

    def run(self, library: Library) -> list[np.ndarray]:
        return library.run("PackedAttention", self.arrays, epsilon=EPSILON)

    def turned(self, name: str) -> np.ndarray:
        """Heads of query or key, normed and turned: [tokens, heads, size]."""
        given = {key: array.astype(np.float64) for key, array in self.arrays.items()}
        split = given[name].reshape(len(given[name]), -1, self.size)
        normed = split / np.sqrt((split**2).mean(-1, keepdims=True) + EPSILON)
        left, right = np.split(normed * given[f"{name}_weight"], 2, axis=-1)
        places = self.past + np.concatenate([np.arange(length) for length in self.lengths])
        cosine, sine = given["cosines"][places][:, None], given["sines"][places][:, None]
        return np.concatenate([left * cosine - right * sine, right * cosine + left * sine], -1)

    def value(self) -> np.ndarray:
        values = self.arrays["value"].astype(np.float64)
        return values.reshape(len(values), -1, self.size)

    def expected(self) -> np.ndarray:
        queries, new_keys, new_values = self.turned("query"), self.turned("key"), self.value()
        group = self.heads[0] // self.heads[1]
        made = []
        for row, length in enumerate(self.lengths):
            start = sum(self.lengths[:row])
            past_row = min(row, len(self.arrays["past_key"]) - 1)
            for head in range(self.heads[0]):
                pasts = [
                    self.arrays[n][past_row, head // group] for n in ("past_key", "past_value")
                ]
                news = [n[start : start + length, head // group] for n in (new_keys, new_values)]
                keys, values = (np.concatenate(both) for both in zip(pasts, news, strict=True))
                scores = queries[start : start + length, head] @ keys.T / np.sqrt(self.size)
                hidden = np.arange(len(keys)) > self.past + np.arange(length)[:, None]
                odds = np.exp(np.where(hidden, -np.inf, scores))
                made.append((odds / odds.sum(-1, keepdims=True)) @ values)
        by_row = iter(made)
        rows = [np.stack([next(by_row) for _ in range(self.heads[0])], 1) for _ in self.lengths]
        return np.concatenate(rows).reshape(sum(self.lengths), -1)


CASES = {
    "one row": Attention([40]),
    "one token": Attention([1]),
    "rows of many lengths": Attention([1, 33, 2, 17, 64]),
    "after a past": Attention([44], past=72),
    "after an odd past": Attention([5], past=33),
    "rows that share an odd past": Attention([7, 30, 1], past=71),
    "rows with a past each": Attention([7, 30, 1], past=6, past_rows=3),
    "each head alone": Attention([9, 20], heads=(3, 3)),
    "four queries a key": Attention([9, 20], past=2, heads=(8, 2)),
    "wide heads": Attention([21, 8], past=4, heads=(2, 1), size=128),
    "wider heads": Attention([21], heads=(2, 2), size=256),
    "long": Attention([300], past=500, heads=(2, 1)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_attention_is_that_of_numpy(library: Library, name: str) -> None:
    case = CASES[name]
    attended, *presents = case.run(library)
    assert np.abs(attended - case.expected()).max() < library.tolerance * 4
    starts = np.cumsum([0, *case.lengths])
    for present, past, new in zip(
        presents, ("past_key", "past_value"), (case.turned("key"), case.value()), strict=True
    ):
        assert len(present) == len(case.lengths)
        for row, length in enumerate(case.lengths):
            before = case.arrays[past][min(row, len(case.arrays[past]) - 1)]
            own = new[starts[row] : starts[row + 1]].transpose(1, 0, 2)
            seen = np.concatenate([before, own], axis=1)
            found = present[row, :, : case.past + length]
            np.testing.assert_allclose(found, seen, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["after a past", "rows that share an odd past"])
def test_keys_and_values_are_not_written_where_nobody_asks_for_them(
    library: Library, name: str
) -> None:
    case = CASES[name]
    attended, *_ = case.run(library)
    case.arrays["keeps_past"] = np.zeros(1, np.int64)
    found, *presents = case.run(library)
    case.arrays["keeps_past"] = np.ones(1, np.int64)
    np.testing.assert_array_equal(found, attended)
    assert all(present.size == 0 for present in presents)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=5),
    cut=st.integers(0, 69),
    seed=st.integers(0, 100),
)
def test_a_row_has_the_same_bits_alone_together_whole_and_in_pieces(
    library: Library, lengths: list[int], cut: int, seed: int
) -> None:
    together = Attention(lengths, heads=(2, 1), seed=seed)
    attended, *_ = together.run(library)
    start = sum(lengths[:-1])
    alone = Attention(lengths[-1:], heads=(2, 1), seed=seed)
    for name in ("query", "key", "value"):
        alone.arrays[name] = together.arrays[name][start:]
    whole, *presents = alone.run(library)
    np.testing.assert_array_equal(whole, attended[start:])
    cut = min(cut, lengths[-1] - 1)
    rest = Attention([lengths[-1] - cut], past=cut, heads=(2, 1), seed=seed)
    for name in ("query", "key", "value"):
        rest.arrays[name] = alone.arrays[name][cut:]
    for name, present in zip(("past_key", "past_value"), presents, strict=True):
        rest.arrays[name] = np.ascontiguousarray(present[:, :, :cut])
    np.testing.assert_array_equal(rest.run(library)[0], whole[cut:])


def test_what_an_earlier_call_left_in_memory_is_not_read(library: Library) -> None:
    case = Attention([3, 5], past=2, heads=(2, 1))
    clean, *_ = case.run(library)
    dirty = Attention([40], past=2, heads=(2, 1))
    for name in ("query", "key", "value"):
        dirty.arrays[name] = np.full_like(dirty.arrays[name], np.nan)
    assert np.isnan(dirty.run(library)[0]).all()
    np.testing.assert_array_equal(case.run(library)[0], clean)


def test_a_token_that_is_no_number_reaches_all_that_see_it_and_no_other_row(
    library: Library,
) -> None:
    case = Attention([10, 10], heads=(2, 1))
    for name in ("query", "key", "value"):
        case.arrays[name][4] = np.nan
    attended, *_ = case.run(library)
    assert np.isnan(attended[4:10]).all()
    assert not np.isnan(attended[10:]).any()


@pytest.mark.parametrize("length", [10, 40])
@pytest.mark.parametrize("name", ["query", "key", "query_weight", "key_weight"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_no_number_is_not_hidden_by_values_that_are(
    library: Library, bad: float, name: str, length: int
) -> None:
    case = Attention([length, length], heads=(2, 1))
    case.arrays["value"] *= np.float32(0.03)
    case.arrays[name][4] = bad
    attended, *_ = case.run(library)
    is_reached = np.isnan(attended).all(axis=1)
    is_weight = name.endswith("weight")
    seen = range(4, 5) if name == "query" else range(0 if is_weight else 4, length)
    assert is_reached[list(seen)].all()
    assert is_reached[length:].all() == is_weight


def test_rows_without_tokens_keep_the_past(library: Library) -> None:
    case = Attention([0, 0], past=5, heads=(2, 1))
    attended, *presents = case.run(library)
    assert attended.shape == (0, 2 * case.size)
    for present, past in zip(presents, ("past_key", "past_value"), strict=True):
        np.testing.assert_array_equal(present, np.repeat(case.arrays[past], 2, axis=0))


def test_a_rotation_that_is_no_power_of_two_is_refused(library: Library) -> None:
    with pytest.raises(Exception, match=r"powers of two that divide n \(96\)"):
        library.run("RowQuantize", {"values": normal(2, 96)}, rotation=96)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ends": np.array([3, 2, 8])}, r"ends of rows must not fall \(2\)"),
        ({"ends": np.array([3, 7])}, r"the last row must end with the last token \(8\)"),
        ({"past_key": normal(2, 2, 4, 32), "past_value": normal(2, 2, 4, 32)}, "a past is"),
        ({"past_key": normal(1, 3, 4, 32)}, "a past is"),
        (
            {"cosines": normal(6, 16), "sines": normal(6, 16)},
            r"rotary tables are shorter than the rows \(9\)",
        ),
        ({"key_weight": normal(64)}, "norms and rotary tables"),
        ({"sines": normal(5, 16)}, "norms and rotary tables"),
        ({"query_weight": normal(24)}, r"multiples of 32 values.* \(24\)"),
        ({"key": normal(7, 64)}, "whole groups"),
    ],
)
def test_inputs_that_do_not_fit_are_an_error(
    library: Library, change: dict[str, np.ndarray], message: str
) -> None:
    case = Attention([3, 4, 1], past=5)
    case.arrays |= change
    with pytest.raises(Exception, match=message):
        case.run(library)


def test_widths_that_fill_no_vector_are_an_error(library: Library) -> None:
    with pytest.raises(Exception, match=r"n a multiple of 16 \(24\)"):
        library.run("RowQuantize", {"values": normal(2, 24)}, rotation=1)
