# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import copy
import io
import json
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch_samples import assert_same_bits

from mct_quantizers import (
    PytorchActivationQuantizationHolder,
    PytorchQuantizationWrapper,
    QuantizationMethod,
    QuantizationTarget,
    pytorch_quantizers,
)
from mct_quantizers.common import arithmetic, numpy_ops
from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.quant_info import QuantizerID
from mct_quantizers.common.registry import get_inferable_quantizer_class
from mct_quantizers.pytorch.quantizers import (
    ActivationLutPOTInferableQuantizer,
    BasePyTorchInferableQuantizer,
    WeightsLUTPOTInferableQuantizer,
    WeightsLUTSymmetricInferableQuantizer,
)

LEVELS = [-25.0, 25.0, 0.0, 100.0, -128.0, 26.0]
CHANNELS = {"per_channel": True, "channel_axis": 0}
TENSOR = {"per_channel": False}
SAMPLES = {
    "weights_symmetric": lambda: WeightsLUTSymmetricInferableQuantizer(3, LEVELS, [1.3, 0.4], **CHANNELS),
    "weights_symmetric_wide": lambda: WeightsLUTSymmetricInferableQuantizer(
        8, list(range(-3000, 3000, 25)), [1.3], **TENSOR, lut_values_bitwidth=13, eps=1e-3
    ),
    "weights_pot": lambda: WeightsLUTPOTInferableQuantizer(3, LEVELS, [2.0, 0.5], True, -2, 2),
    "activation": lambda: ActivationLutPOTInferableQuantizer(3, LEVELS, [2.0], signed=True),
    "activation_unsigned": lambda: ActivationLutPOTInferableQuantizer(2, [200.0, 0.0, 63.0], [0.5], signed=False),
}
every_quantizer = pytest.mark.parametrize("make", SAMPLES.values(), ids=SAMPLES)


def batch(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(2, 300, generator=torch.Generator().manual_seed(0)).mul(1.5).to(dtype)


def nearest(x: np.ndarray, table: LookupTable) -> np.ndarray:
    """Distance to every level in float32, the first of equally near ones; a threshold for each row of `x`."""
    width, signed = table.lut_values_bitwidth, table.signed
    low, high = (-(2 ** (width - 1)), 2 ** (width - 1) - 1) if signed else (0, 2**width - 1)
    scale, threshold = np.float32(2.0 ** (width - signed)), table.threshold.astype(np.float32)[:, None]
    with np.errstate(over="ignore"):
        u = np.clip(x / (threshold + np.float32(table.eps)) * scale, np.float32(low), np.float32(high))
    best, chosen = np.full(u.shape, np.inf, np.float32), np.full(u.shape, np.nan, np.float32)
    for level in table.lut_values.astype(np.float32):
        distance = np.abs(u - level)
        nearer = distance < best
        best[nearer], chosen[nearer] = distance[nearer], level
    return (chosen / scale * threshold).astype(np.float32)


def samples(table: LookupTable, random: int) -> np.ndarray:
    """float32, a row for each threshold: random numbers, levels and midpoints with neighbours, special numbers."""
    levels = np.unique(table.lut_values)
    exact = np.concatenate([levels, (levels[1:] + levels[:-1]) / 2])
    tiny = np.finfo(np.float32).tiny
    special = [0.0, -0.0, 1e-45, -1e-45, tiny, -tiny, tiny / 2, 3.4e38, -3.4e38, np.inf, -np.inf, np.nan]
    rows = []
    for threshold in table.threshold.astype(np.float32):
        near = [(exact / table.level_scale).astype(np.float32) * (threshold + np.float32(table.eps))]
        for _ in range(3):
            below, above = (np.nextafter(near[end], np.float32(side * np.inf)) for end, side in ((0, -1), (-1, 1)))
            near = [below, *near, above]
        spread = np.random.default_rng(0).normal(0, threshold * 0.6, random)
        rows.append(np.concatenate([spread, *near, special]).astype(np.float32))
    return np.stack(rows)


def quantizer_of(table: LookupTable) -> nn.Module:
    """A class that has the signedness and the axis of the table."""
    cls = WeightsLUTSymmetricInferableQuantizer if table.signed else ActivationLutPOTInferableQuantizer
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cls.from_params(table)


def table_of(num_bits: int, bitwidth: int, signed: bool) -> LookupTable:
    low, high = (-(2 ** (bitwidth - 1)), 2 ** (bitwidth - 1)) if signed else (0, 2**bitwidth)
    levels = np.random.default_rng(num_bits).permutation(np.arange(low, high))[: 2**num_bits]
    levels = np.append(levels, levels[: num_bits - 1])
    threshold = np.array([1.0, 1.3, 0.125], np.float32) if signed else [2.0]
    return LookupTable(levels, threshold, num_bits, signed, bitwidth, axis=0 if signed else None)


# Numbers.


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bitwidth", [8, 16])
@pytest.mark.parametrize("num_bits", range(1, 9))
def test_every_number_goes_to_the_nearest_level_bit_for_bit(num_bits, bitwidth, signed):
    table = table_of(num_bits, bitwidth, signed)
    quantizer = quantizer_of(table)
    assert quantizer.params == table
    x = samples(table, random=10_000)
    expected = nearest(x, table)
    assert (np.isnan(expected) == np.isnan(x)).all()
    assert_same_bits(quantizer(torch.from_numpy(x)), expected)
    # Another test asks NumPy for silence.
    with np.errstate(over="ignore"):
        assert_same_bits(quantizer(torch.from_numpy(x)), arithmetic.lut_quantize(x, table, numpy_ops))


def test_a_million_numbers_go_to_the_nearest_of_256_levels():
    table = table_of(8, 16, False)
    x = samples(table, random=1_000_000)
    assert_same_bits(quantizer_of(table)(torch.from_numpy(x)), nearest(x, table))


@given(st.integers(1, 16), st.booleans(), st.data())
def test_random_tables_assign_the_nearest_level(bitwidth, signed, data):
    num_bits = data.draw(st.integers(1, bitwidth))
    low, high = (-(2 ** (bitwidth - 1)), 2 ** (bitwidth - 1) - 1) if signed else (0, 2**bitwidth - 1)
    different = data.draw(st.lists(st.integers(low, high), min_size=1, max_size=min(2**num_bits, 20), unique=True))
    order = data.draw(st.permutations(different + different[:3]))
    if signed:
        threshold = data.draw(st.lists(st.floats(2.0**-10, 2.0**10, width=32), min_size=1, max_size=3))
    else:
        threshold = [2.0 ** data.draw(st.integers(-10, 10))]
    eps = data.draw(st.sampled_from([0.0, 1e-8, 1e-3]))
    table = LookupTable(order, threshold, num_bits, signed, bitwidth, eps, 0 if signed else None)
    x = samples(table, random=200)
    assert_same_bits(quantizer_of(table)(torch.from_numpy(x)), nearest(x, table))


@pytest.mark.parametrize("level", [-128, 0, 5, 127])
def test_one_level_takes_every_number(level):
    outputs = WeightsLUTSymmetricInferableQuantizer(1, [level], [2.0], **TENSOR)(batch())
    assert (outputs == level / 64).all()


@pytest.mark.parametrize("axis", range(-4, 4))
def test_per_channel_equals_a_loop_over_slices(axis):
    x = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(1))
    thresholds = [2.0**power for power in range(-2, x.shape[axis] - 2)]
    outputs = WeightsLUTPOTInferableQuantizer(3, LEVELS, thresholds, True, axis)(x)
    for channel, threshold in enumerate(thresholds):
        alone = WeightsLUTPOTInferableQuantizer(3, LEVELS, threshold, False)
        assert torch.equal(outputs.select(axis, channel), alone(x.select(axis, channel)))


@pytest.mark.parametrize(
    ("cls", "arguments", "table"),
    [
        (WeightsLUTSymmetricInferableQuantizer, (2, [3, 1], [1.5], False), LookupTable([3, 1], 1.5, 2)),
        (
            WeightsLUTSymmetricInferableQuantizer,
            (2, [3, 1], [1.5, 2], True, -1, 4, 6, 0.5),
            LookupTable([3, 1], [1.5, 2], 2, True, 6, 0.5, -1),
        ),
        (WeightsLUTPOTInferableQuantizer, (2, [3, 1], [2], True, 1), LookupTable([3, 1], 2.0, 2, axis=1)),
        (
            ActivationLutPOTInferableQuantizer,
            (2, [3, 1], [0.5], False, 6, 0.5),
            LookupTable([3, 1], 0.5, 2, False, 6, 0.5),
        ),
    ],
)
def test_positional_arguments_stand_in_the_promised_order(cls, arguments, table):
    assert cls(*arguments).params == table


@every_quantizer
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(make, dtype):
    quantizer, x = make(), batch(dtype)
    outputs = quantizer(x)
    assert outputs.dtype == dtype
    assert torch.equal(outputs, quantizer(x.float()).to(dtype))


@every_quantizer
def test_double_precision_stays_double(make):
    quantizer, x = make(), batch(torch.float64)
    outputs = quantizer(x)
    assert outputs.dtype == torch.float64
    np.testing.assert_array_equal(outputs.numpy(), arithmetic.lut_quantize(x.numpy(), quantizer.params, numpy_ops))


@every_quantizer
def test_autocast_changes_nothing(make):
    quantizer, x = make(), batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = quantizer(x)
    assert outputs.dtype == torch.float32
    assert torch.equal(outputs, quantizer(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (2, 3, 1, 1)])
def test_shape_and_type_are_kept(shape, dtype):
    x = torch.full(shape, 0.3, dtype=dtype)
    for name in ("weights_symmetric_wide", "activation"):
        outputs = SAMPLES[name]()(x)
        assert outputs.shape == x.shape
        assert outputs.dtype == x.dtype


def test_strided_input_gives_the_numbers_of_contiguous_input():
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    quantizer = WeightsLUTSymmetricInferableQuantizer(3, LEVELS, [1.0, 0.5, 2.0], True, 1)
    expected = quantizer(x)
    assert torch.equal(quantizer(x.to(memory_format=torch.channels_last)), expected)
    assert torch.equal(quantizer(x.transpose(0, 2).contiguous().transpose(0, 2)), expected)
    assert torch.equal(quantizer(x[::2]), expected[::2])


@every_quantizer
def test_nan_stays_nan_and_touches_no_neighbour(make):
    quantizer, x = make(), batch()
    expected = quantizer(x)
    x[0, 5] = expected[0, 5] = float("nan")
    outputs = quantizer(x)
    assert torch.equal(outputs.isnan(), x.isnan())
    assert torch.equal(outputs.nan_to_num(7), expected.nan_to_num(7))


@every_quantizer
def test_infinity_and_huge_numbers_go_to_the_outer_levels(make):
    quantizer = make()
    ends = torch.stack([quantizer.lut_values.max(), quantizer.lut_values.min()]) / quantizer.params.level_scale
    for value in (float("inf"), 3e38):
        outputs = quantizer(torch.tensor([value, -value]).repeat(2, 1))
        assert torch.equal(outputs, (ends * quantizer.threshold.view(-1, 1)).expand(2, 2))


# Input that is refused, and input that is left alone.


@every_quantizer
@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool])
def test_integer_input_is_refused(make, dtype):
    with pytest.raises(TypeError, match=f"floating-point.*{dtype}"):
        make()(torch.zeros(2, 3, dtype=dtype))


@pytest.mark.parametrize("shape", [(3, 2), (), (1, 2)])
def test_wrong_number_of_channels_is_refused(shape):
    for name in ("weights_symmetric", "weights_pot"):
        with pytest.raises(ValueError, match="Received"):
            SAMPLES[name]()(torch.zeros(shape))


@every_quantizer
def test_output_needs_no_gradient_and_input_is_left_alone(make):
    quantizer = make()
    weight = nn.Parameter(batch())
    hidden = weight * 1.0
    before = weight.detach().clone()
    for x in (weight, hidden):
        outputs = quantizer(x)
        assert not outputs.requires_grad
        assert x.requires_grad
        assert torch.equal(x.detach(), before)
    hidden.sum().backward()
    assert (weight.grad == 1).all()


# Memory.


def test_a_call_needs_memory_for_three_tensors_whatever_the_table():
    quantizer = quantizer_of(table_of(8, 16, False))
    x = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))
    # Loads what the first call loads.
    quantizer(x[:10])
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        quantizer(x)
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    # The output is one of them; without it there would be nothing to see.
    assert held.max() >= x.nbytes
    assert held.max() <= 3 * x.nbytes + 100_000


# Construction.

GOOD = {
    WeightsLUTSymmetricInferableQuantizer: {
        "num_bits": 3,
        "lut_values": [1, -2],
        "threshold": [1.5],
        "per_channel": False,
    },
    WeightsLUTPOTInferableQuantizer: {"num_bits": 3, "lut_values": [1, -2], "threshold": [2.0], "per_channel": False},
    ActivationLutPOTInferableQuantizer: {"num_bits": 3, "lut_values": [1, 2], "threshold": [0.5], "signed": False},
}
every_class = pytest.mark.parametrize("cls", GOOD, ids=lambda cls: cls.__name__)
NAN = float("nan")
COMMON_ERRORS = [
    ({"lut_values": list(range(9))}, ValueError, r"`lut_values`.*9"),
    ({"lut_values": [1.5, 2]}, ValueError, r"`lut_values`.*1\.5"),
    ({"lut_values": [256]}, ValueError, "`lut_values`.*256"),
    ({"lut_values": [8], "lut_values_bitwidth": 3, "num_bits": 2}, ValueError, "`lut_values`.*8"),
    ({"lut_values": [-129]}, ValueError, "`lut_values`.*-129"),
    ({"lut_values": []}, ValueError, r"`lut_values`.*\[\]"),
    ({"lut_values": None}, TypeError, "`lut_values`.*None"),
    ({"lut_values": "1"}, TypeError, "`lut_values`.*'1'"),
    ({"lut_values": [NAN]}, ValueError, "`lut_values`.*nan"),
    ({"threshold": [0.0]}, ValueError, r"`threshold`.*0\.0"),
    ({"threshold": [-1.0]}, ValueError, r"`threshold`.*-1\.0"),
    ({"threshold": [NAN]}, ValueError, "`threshold`.*nan"),
    ({"threshold": []}, ValueError, r"`threshold`.*\[\]"),
    ({"threshold": None}, TypeError, "`threshold`.*None"),
    ({"threshold": [2.0, 4.0]}, ValueError, r"`threshold`.*2\.0, 4\.0"),
    ({"num_bits": 9}, ValueError, "`num_bits`.*num_bits=9, lut_values_bitwidth=8"),
    ({"num_bits": 0}, ValueError, "`num_bits`.*0"),
    ({"num_bits": 3.0}, TypeError, r"`num_bits`.*3\.0"),
    ({"num_bits": True}, TypeError, "`num_bits`.*True"),
    ({"lut_values_bitwidth": 17}, ValueError, "`lut_values_bitwidth`.*17"),
    ({"lut_values_bitwidth": 8.0}, TypeError, r"`lut_values_bitwidth`.*8\.0"),
    ({"eps": -1e-8}, ValueError, "`eps`.*-1e-08"),
    ({"eps": None}, TypeError, "`eps`.*None"),
]
AXIS_ERRORS = [
    ({"per_channel": 2}, TypeError, "`per_channel`.*2"),
    ({"per_channel": None}, TypeError, "`per_channel`.*None"),
    ({"per_channel": True}, ValueError, "`channel_axis`.*None"),
    ({"per_channel": True, "channel_axis": 0.5}, TypeError, r"`channel_axis`.*0\.5"),
    ({"per_channel": True, "channel_axis": True}, TypeError, "`channel_axis`.*True"),
    ({"per_channel": True, "channel_axis": 0, "input_rank": "2"}, TypeError, "`input_rank`.*'2'"),
    ({"per_channel": True, "channel_axis": 4, "input_rank": 4}, ValueError, "`channel_axis`.*channel_axis=4"),
    ({"per_channel": True, "channel_axis": -5, "input_rank": 4}, ValueError, "`channel_axis`.*channel_axis=-5"),
]
WEIGHTS = (WeightsLUTSymmetricInferableQuantizer, WeightsLUTPOTInferableQuantizer)
POWERS = (WeightsLUTPOTInferableQuantizer, ActivationLutPOTInferableQuantizer)
ARGUMENT_ERRORS = [
    *((cls, *case) for cls in GOOD for case in COMMON_ERRORS),
    *((cls, *case) for cls in WEIGHTS for case in AXIS_ERRORS),
    *((cls, {"lut_values": [128]}, ValueError, "`lut_values`.*128") for cls in WEIGHTS),
    *((cls, {"threshold": [0.3]}, ValueError, r"`threshold`.*power of two.*0\.3") for cls in POWERS),
    (ActivationLutPOTInferableQuantizer, {"lut_values": [-1]}, ValueError, "`lut_values`.*-1"),
    (ActivationLutPOTInferableQuantizer, {"lut_values": [128], "signed": True}, ValueError, "`lut_values`.*128"),
    (ActivationLutPOTInferableQuantizer, {"signed": None}, TypeError, "`signed`.*None"),
    (ActivationLutPOTInferableQuantizer, {"signed": 2}, TypeError, "`signed`.*2"),
]


@pytest.mark.parametrize(("cls", "change", "error", "text"), ARGUMENT_ERRORS)
def test_wrong_argument_is_refused_by_name_and_value(cls, change, error, text):
    with pytest.raises(error, match=text):
        cls(**{**GOOD[cls], **change})


@every_class
def test_unknown_argument_is_refused(cls):
    with pytest.raises(TypeError, match="n_bits"):
        cls(**GOOD[cls], n_bits=4)


@pytest.mark.parametrize("convert", [list, tuple, np.array, torch.tensor, lambda values: [[value] for value in values]])
def test_levels_and_thresholds_may_come_in_any_form(convert):
    quantizer = WeightsLUTSymmetricInferableQuantizer(2, convert([3, 1, -2]), convert([1.5, 0.25]), True, 0)
    assert quantizer.params == LookupTable([3, 1, -2], [1.5, 0.25], 2, axis=0)


@every_class
def test_construction_warns_once_when_the_index_is_as_wide_as_the_levels(cls):
    arguments = {**GOOD[cls], "lut_values": [1, 0], "lut_values_bitwidth": 3}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quantizer = cls(**arguments)
    assert [warning.category for warning in caught] == [UserWarning]
    assert "`num_bits` equals `lut_values_bitwidth`" in str(caught[0].message)
    # The line of the caller is shown.
    assert caught[0].filename == __file__
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert quantizer.params.num_bits == quantizer.get_config()["num_bits"] == 3
        repr(quantizer)
        quantizer(batch())
        quantizer.load_state_dict(quantizer.state_dict())
        copy.deepcopy(quantizer)
        pickle.loads(pickle.dumps(quantizer))
    assert caught == []


# Configuration.


@every_quantizer
def test_config_round_trip_gives_the_same_outputs(make):
    quantizer, x = make(), batch()
    config = json.loads(json.dumps(quantizer.get_config()))
    for restored in (type(quantizer)(**config), type(quantizer).from_config(config)):
        assert restored.params == quantizer.params
        assert restored.get_config() == config
        assert torch.equal(restored(x), quantizer(x))


@every_quantizer
def test_params_round_trip_gives_the_same_outputs(make):
    quantizer, x = make(), batch()
    restored = type(quantizer).from_params(LookupTable(**json.loads(json.dumps(quantizer.params.to_dict()))))
    assert restored.params == quantizer.params
    assert torch.equal(restored(x), quantizer(x))


def test_params_with_a_threshold_that_float32_rounds_are_accepted():
    table = LookupTable([1, 2], [1.3, 0.1], 1, axis=0)
    assert WeightsLUTSymmetricInferableQuantizer.from_params(table).params == table


@pytest.mark.parametrize("threshold", [1.5, 1.3])
def test_config_holds_what_was_given(threshold):
    arguments = {"num_bits": 3, "lut_values": [3, 1, -2], "threshold": [threshold], "per_channel": False}
    assert arguments.items() <= WeightsLUTSymmetricInferableQuantizer(**arguments).get_config().items()


@every_class
def test_config_has_the_promised_keys(cls):
    keys = {"num_bits", "lut_values", "threshold", "lut_values_bitwidth", "eps"}
    keys |= {"per_channel", "channel_axis", "input_rank"} if cls in WEIGHTS else {"signed"}
    config = cls(**GOOD[cls]).get_config()
    assert set(config) == keys
    assert GOOD[cls].items() <= config.items()


@every_quantizer
def test_repr_shows_the_configuration(make):
    quantizer = make()
    assert f"num_bits={quantizer.num_bits}" in repr(quantizer)
    assert f"lut_values_bitwidth={quantizer.lut_values_bitwidth}" in repr(quantizer)


# State.


@every_quantizer
def test_quantizer_has_buffers_alone_and_nothing_to_train(make):
    quantizer = make()
    assert list(quantizer.parameters()) == []
    assert list(quantizer.state_dict()) == ["lut_values", "threshold", "quantization_grid"]
    for buffer in quantizer.buffers():
        assert buffer.dtype == torch.float32
        assert buffer.dim() == 1


@pytest.mark.parametrize("cls", GOOD, ids=lambda cls: cls.__name__)
def test_buffers_of_single_numbers_are_vectors(cls):
    quantizer = cls(**{**GOOD[cls], "lut_values": 1, "threshold": 2})
    quantizer(batch())
    assert quantizer.lut_values.shape == quantizer.threshold.shape == (1,)
    assert all(buffer.dim() == 1 for buffer in quantizer.buffers())


@every_quantizer
@pytest.mark.parametrize("change", ["half", "bfloat16", "double", "float"])
def test_table_stays_float32_to_the_bit(make, change):
    quantizer, x = make(), batch()
    before = {name: buffer.clone() for name, buffer in quantizer.named_buffers()}
    expected = quantizer(x)
    carrier = nn.Sequential(nn.Linear(2, 2), quantizer)
    getattr(carrier, change)()
    for name, buffer in quantizer.named_buffers():
        assert buffer.dtype == torch.float32
        # NaN ends the levels.
        assert torch.equal(buffer.nan_to_num(7), before[name].nan_to_num(7))
    assert torch.equal(quantizer(x), expected)
    dtypes = {"half": torch.float16, "bfloat16": torch.bfloat16, "double": torch.float64, "float": torch.float32}
    assert carrier[0].weight.dtype == dtypes[change]


@every_quantizer
def test_buffers_follow_the_module_to_a_device(make):
    quantizer = nn.Sequential(make()).to("meta", torch.float16)[0]
    assert {(buffer.device.type, buffer.dtype) for buffer in quantizer.buffers()} == {("meta", torch.float32)}


@every_quantizer
@pytest.mark.parametrize("after_forward", [False, True])
def test_copies_quantize_alike_and_share_nothing(make, after_forward):
    quantizer, x = make(), batch()
    if after_forward:
        quantizer(x)
    expected = quantizer(x)
    for clone in (copy.deepcopy(quantizer), pickle.loads(pickle.dumps(quantizer))):
        assert torch.equal(clone(x), expected)
        assert clone.get_config() == quantizer.get_config()
        assert clone.params == quantizer.params
        for buffer in clone.buffers():
            buffer.mul_(2)
        assert torch.equal(quantizer(x), expected)


def changed_state(quantizer: nn.Module) -> dict[str, torch.Tensor]:
    """Another table of the same length and another threshold."""
    values = quantizer.lut_values.flip(0).clone()
    values[1:] -= torch.sign(values[1:])
    return {**quantizer.state_dict(), "lut_values": values, "threshold": quantizer.threshold * 2}


@every_quantizer
def test_state_loads_strictly_and_changes_the_table(make):
    quantizer, x = make(), batch()
    before = quantizer(x)
    file = io.BytesIO()
    torch.save(changed_state(quantizer), file)
    file.seek(0)
    quantizer.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert not torch.equal(quantizer(x), before)
    assert quantizer.lut_values.tolist() == quantizer.params.lut_values.tolist()
    # What is derived from the state is that of a quantizer constructed with it.
    fresh = type(quantizer).from_params(quantizer.params)
    assert torch.equal(quantizer(x), fresh(x))
    for name, buffer in fresh.named_buffers():
        assert torch.equal(buffer.nan_to_num(7), quantizer.get_buffer(name).nan_to_num(7))


@every_quantizer
def test_state_loads_through_the_module_that_carries_the_quantizer(make):
    quantizer, x = make(), batch()
    quantizer.load_state_dict(changed_state(quantizer))
    carrier, other = nn.Sequential(nn.Identity(), quantizer), nn.Sequential(nn.Identity(), make())
    other.load_state_dict(carrier.state_dict(), strict=True)
    assert torch.equal(other(x), carrier(x))
    assigned = nn.Sequential(nn.Identity(), make())
    assigned.load_state_dict(carrier.state_dict(), strict=True, assign=True)
    assert torch.equal(assigned(x), carrier(x))


@every_quantizer
def test_state_loads_into_a_module_without_storage(make):
    quantizer, x = make(), batch()
    empty = make().to("meta")
    empty.load_state_dict(quantizer.state_dict(), strict=True, assign=True)
    assert torch.equal(empty(x), quantizer(x))


@every_quantizer
def test_config_tells_the_loaded_state(make):
    quantizer, x = make(), batch()
    quantizer.load_state_dict(changed_state(quantizer))
    restored = type(quantizer)(**json.loads(json.dumps(quantizer.get_config())))
    assert restored.params == quantizer.params
    assert torch.equal(restored(x), quantizer(x))


@pytest.mark.parametrize("name", ["lut_values", "threshold"])
def test_state_of_another_length_is_refused_and_changes_nothing(name):
    quantizer, x = SAMPLES["weights_symmetric"](), batch()
    expected = quantizer(x)
    with pytest.raises(RuntimeError, match=f"size mismatch for {name}"):
        quantizer.load_state_dict({**quantizer.state_dict(), name: torch.ones(9)})
    assert torch.equal(quantizer(x), expected)


@pytest.mark.parametrize("name", ["lut_values", "threshold"])
def test_state_without_a_key_is_refused(name):
    quantizer = SAMPLES["weights_symmetric"]()
    state = quantizer.state_dict()
    del state[name]
    with pytest.raises(RuntimeError, match=f"Missing key.*{name}"):
        quantizer.load_state_dict(state)


def test_state_that_is_no_table_is_refused():
    quantizer = SAMPLES["weights_symmetric"]()
    for name, values in (("lut_values", quantizer.lut_values + 0.5), ("threshold", -quantizer.threshold)):
        with pytest.raises(ValueError, match=f"`{name}` must"):
            SAMPLES["weights_symmetric"]().load_state_dict({**quantizer.state_dict(), name: values})


# Marks.


@pytest.mark.parametrize(
    ("cls", "target", "method"),
    [
        (WeightsLUTPOTInferableQuantizer, "Weights", "LUT_POT_QUANTIZER"),
        (WeightsLUTSymmetricInferableQuantizer, "Weights", "LUT_SYM_QUANTIZER"),
        (ActivationLutPOTInferableQuantizer, "Activation", "LUT_POT_QUANTIZER"),
    ],
)
def test_marks_say_what_is_quantized_and_find_exactly_this_class(cls, target, method):
    assert cls.quantization_target is QuantizationTarget[target]
    assert cls.quantization_method == [QuantizationMethod[method]]
    assert cls.identifier is QuantizerID.INFERABLE
    found = get_inferable_quantizer_class(
        QuantizationTarget[target], QuantizationMethod[method], BasePyTorchInferableQuantizer
    )
    assert found is cls
    assert getattr(pytorch_quantizers, cls.__name__) is cls
    assert cls.__name__ in pytorch_quantizers.__all__
    assert issubclass(cls, BasePyTorchInferableQuantizer)


# Wrapper and holder.


@pytest.mark.parametrize("name", ["weights_symmetric", "weights_symmetric_wide", "weights_pot"])
def test_wrapper_runs_its_layer_with_the_quantized_weight(name):
    x, layer, quantizer = torch.randn(5, 3), nn.Linear(3, 2), SAMPLES[name]()
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    wrapped = PytorchQuantizationWrapper(layer, {"weight": quantizer})
    expected = nn.functional.linear(x, quantizer(weight), bias)
    assert torch.equal(wrapped(x), expected)
    assert torch.equal(wrapped.get_quantized_weights()["weight"], quantizer(weight))
    own = {f"weight_quantizer.{name}" for name in ("lut_values", "threshold", "quantization_grid")}
    assert set(wrapped.state_dict()) == {"weight", "layer.bias", *own}
    fresh = PytorchQuantizationWrapper(nn.Linear(3, 2), {"weight": SAMPLES[name]()})
    fresh.load_state_dict(wrapped.state_dict(), strict=True)
    assert torch.equal(fresh(x), expected)
    assert torch.equal(copy.deepcopy(wrapped)(x), expected)
    wrapped.convert_to_inferable_quantizers()
    assert torch.equal(wrapped(x), expected)


@pytest.mark.parametrize("name", ["activation", "activation_unsigned"])
def test_holder_quantizes_its_input(name):
    x, quantizer = batch(), SAMPLES[name]()
    held = PytorchActivationQuantizationHolder(quantizer)
    assert torch.equal(held(x), quantizer(x))
    held.convert_to_inferable_quantizers()
    assert held.activation_holder_quantizer is quantizer


# Tracing and compilation.


@pytest.mark.parametrize("name", ["activation", "activation_unsigned"])
def test_symbolic_trace_of_a_holder_computes_alike_and_survives_pickle(name):
    model = nn.Sequential(nn.Linear(300, 4), PytorchActivationQuantizationHolder(SAMPLES[name]()))
    x = batch()
    traced = torch.fx.symbolic_trace(model)
    assert torch.equal(traced(x), model(x))
    assert torch.equal(pickle.loads(pickle.dumps(traced))(x), model(x))


@every_quantizer
def test_symbolic_trace_of_a_quantizer_equals_eager(make):
    quantizer, x = make(), batch()
    assert torch.equal(torch.fx.symbolic_trace(quantizer)(x), quantizer(x))


@every_quantizer
def test_compiled_quantizer_equals_eager(make):
    torch._dynamo.reset()
    quantizer, x = make(), batch()
    compiled = torch.compile(quantizer, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), quantizer(x))


@every_quantizer
def test_exported_quantizer_equals_eager(make):
    quantizer, x = make(), batch()
    exported = torch.export.export(quantizer, (x,)).module()
    assert torch.equal(exported(x), quantizer(x))
