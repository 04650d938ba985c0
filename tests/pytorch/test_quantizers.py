# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import copy
import io
import json
import pickle

import numpy as np
import pytest
import torch
from corner_samples import NUM_BITS, corners, grid
from torch import nn
from torch_samples import assert_same_bits

from mct_quantizers import QuantizationMethod, QuantizationTarget, pytorch_quantizers
from mct_quantizers.common import arithmetic, numpy_ops
from mct_quantizers.common.quant_info import QuantizerID
from mct_quantizers.common.quant_params import from_range, from_threshold
from mct_quantizers.common.registry import get_inferable_quantizer_class
from mct_quantizers.pytorch.quantizers import (
    ActivationPOTInferableQuantizer,
    ActivationSymmetricInferableQuantizer,
    ActivationUniformInferableQuantizer,
    BasePyTorchInferableQuantizer,
    WeightsPOTInferableQuantizer,
    WeightsSymmetricInferableQuantizer,
    WeightsUniformInferableQuantizer,
)

CHANNELS = {"per_channel": True, "channel_axis": 0}
TENSOR = {"per_channel": False}
CLASS_OF = {
    ("weights", "symmetric"): WeightsSymmetricInferableQuantizer,
    ("weights", "unsigned"): WeightsSymmetricInferableQuantizer,
    ("weights", "power_of_two"): WeightsPOTInferableQuantizer,
    ("weights", "uniform"): WeightsUniformInferableQuantizer,
    ("activation", "symmetric"): ActivationSymmetricInferableQuantizer,
    ("activation", "unsigned"): ActivationSymmetricInferableQuantizer,
    ("activation", "power_of_two"): ActivationPOTInferableQuantizer,
    ("activation", "uniform"): ActivationUniformInferableQuantizer,
}
SAMPLES = {
    "weights_symmetric": lambda: WeightsSymmetricInferableQuantizer(4, [1.3, 0.4], **CHANNELS),
    "weights_pot": lambda: WeightsPOTInferableQuantizer(8, [2.0], **TENSOR),
    "weights_uniform": lambda: WeightsUniformInferableQuantizer(3, [-2.0, -0.3], [1.1, 0.9], **CHANNELS),
    "activation_symmetric": lambda: ActivationSymmetricInferableQuantizer(4, [1.3], signed=False),
    "activation_pot": lambda: ActivationPOTInferableQuantizer(4, [0.5], signed=True),
    "activation_uniform": lambda: ActivationUniformInferableQuantizer(8, [-0.4], [3.1]),
}
every_quantizer = pytest.mark.parametrize("make", SAMPLES.values(), ids=SAMPLES)


def batch(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(2, 300, generator=torch.Generator().manual_seed(0)).mul(1.5).to(dtype)


# Numbers.


@pytest.mark.parametrize(("target", "kind"), CLASS_OF)
@pytest.mark.parametrize("num_bits", NUM_BITS)
@pytest.mark.parametrize("axis", [None, 0])
def test_quantizer_equals_numpy_bit_for_bit(target, kind, num_bits, axis):
    if target == "activation" and axis is not None:
        axis = None
    params = grid(kind, num_bits, axis)
    quantizer = CLASS_OF[target, kind].from_params(params)
    assert quantizer.params == params
    x = corners(params, random=5_000)
    expected = arithmetic.fake_quantize(x, params, numpy_ops)
    if kind == "uniform":
        # The uniform classes always add their zero point, also when it is 0, and -0 + 0 is +0.
        assert_same_bits(quantizer(torch.from_numpy(x)) + 0.0, expected + np.float32(0))
    else:
        assert_same_bits(quantizer(torch.from_numpy(x)), expected)
    finite = np.where(np.isnan(x), np.float32(0), x)
    codes = quantizer.quantize(torch.from_numpy(finite))
    np.testing.assert_array_equal(codes.numpy(), arithmetic.quantize(finite, params, numpy_ops))
    np.testing.assert_array_equal(quantizer.dequantize(codes).numpy(), np.where(np.isnan(x), 0, expected))


@pytest.mark.parametrize(
    ("cls", "arguments", "params"),
    [
        (WeightsSymmetricInferableQuantizer, (4, [1.3], False), from_threshold(1.3, 4)),
        (WeightsSymmetricInferableQuantizer, (4, [1.3, 2.0], True, 1), from_threshold([1.3, 2.0], 4, axis=1)),
        (WeightsPOTInferableQuantizer, (4, [0.5], False), from_threshold(0.5, 4)),
        (WeightsUniformInferableQuantizer, (4, [-1.3], [0.4], False), from_range(-1.3, 0.4, 4)),
        (WeightsUniformInferableQuantizer, (4, [-1, 1], [2, 3], True, -1, 4), from_range([-1, 1], [2, 3], 4, axis=-1)),
        (ActivationSymmetricInferableQuantizer, (4, [1.3], False), from_threshold(1.3, 4, False)),
        (ActivationPOTInferableQuantizer, (4, [2.0], True), from_threshold(2.0, 4)),
        (ActivationUniformInferableQuantizer, (4, [-1.3], [0.4]), from_range(-1.3, 0.4, 4)),
    ],
)
def test_positional_arguments_stand_in_the_promised_order(cls, arguments, params):
    assert cls(*arguments).params == params


@pytest.mark.parametrize("axis", range(-4, 4))
def test_per_channel_equals_a_loop_over_slices(axis):
    x = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(1))
    size = x.shape[axis]
    low, high = np.linspace(-2, -0.2, size).tolist(), np.linspace(0.3, 1.0, size).tolist()
    outputs = WeightsUniformInferableQuantizer(3, low, high, True, axis)(x)
    for channel in range(size):
        alone = WeightsUniformInferableQuantizer(3, low[channel], high[channel], False)
        assert torch.equal(outputs.select(axis, channel), alone(x.select(axis, channel)))


def test_codes_of_weights_are_the_formula():
    weight = torch.tensor([[-1.0, -0.45, 0.124, 0.126], [2.0, 1.0, -4.0, 0.9375]])
    quantizer = WeightsSymmetricInferableQuantizer(4, [1.0, 8.0], True, 0)
    # x / (1/8) and x / 1; -0.992 rounds to -1.
    assert quantizer.quantize(weight).tolist() == [[-8, -4, 1, 1], [2, 1, -4, 1]]
    assert quantizer.scale.tolist() == [0.125, 1.0]
    assert quantizer.zero_point.tolist() == [0, 0]


@every_quantizer
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(make, dtype):
    quantizer, x = make(), batch(dtype)
    outputs = quantizer(x)
    assert outputs.dtype == dtype
    assert torch.equal(outputs, quantizer(x.float()).to(dtype))
    assert torch.equal(quantizer.quantize(x), quantizer.quantize(x.float()))


@every_quantizer
def test_double_precision_stays_double(make):
    quantizer, x = make(), batch(torch.float64)
    outputs = quantizer(x)
    assert outputs.dtype == torch.float64
    np.testing.assert_array_equal(outputs.numpy(), arithmetic.fake_quantize(x.numpy(), quantizer.params, numpy_ops))


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
    for make in (SAMPLES["weights_pot"], SAMPLES["activation_uniform"], SAMPLES["activation_pot"]):
        outputs = make()(x)
        assert outputs.shape == x.shape
        assert outputs.dtype == x.dtype
        assert make().quantize(x).shape == x.shape


def test_strided_input_gives_the_numbers_of_contiguous_input():
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    quantizer = WeightsSymmetricInferableQuantizer(4, [1.0, 0.5, 2.0], True, 1)
    expected = quantizer(x)
    assert torch.equal(quantizer(x.to(memory_format=torch.channels_last)), expected)
    assert torch.equal(quantizer(x.transpose(0, 2).contiguous().transpose(0, 2)), expected)


# Input at the edges of floating point (C12, C13).


@every_quantizer
@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, -1e-45, 1.1754944e-38])
def test_dead_and_subnormal_input_becomes_zero(make, value):
    assert (make()(torch.full((2, 8), value)) == 0.0).all()


@every_quantizer
def test_dead_channel_beside_a_live_one_stays_zero(make):
    x = batch()
    x[0] = 0.0
    outputs = make()(x)
    assert (outputs[0] == 0.0).all()
    assert (outputs[1] != 0.0).any()
    assert outputs.isfinite().all()


@every_quantizer
def test_constant_input_gives_one_constant(make):
    outputs = make()(torch.full((2, 100), 0.37))
    for row in outputs:
        assert row.unique().numel() == 1


@every_quantizer
def test_nan_stays_nan_and_touches_no_neighbour(make):
    quantizer, x = make(), batch()
    expected = quantizer(x)
    x[0, 5] = float("nan")
    expected[0, 5] = float("nan")
    assert torch.equal(quantizer(x).isnan(), expected.isnan())
    assert torch.equal(quantizer(x).nan_to_num(7), expected.nan_to_num(7))
    with pytest.raises(ValueError, match="NaN"):
        quantizer.quantize(x)


@every_quantizer
def test_infinity_saturates_at_the_ends_of_the_grid(make):
    quantizer = make()
    x = torch.tensor([float("inf"), -float("inf")]).repeat(2, 1)
    assert quantizer.quantize(x).tolist() == [[quantizer.quant_max, quantizer.quant_min]] * 2
    params = quantizer.params
    ends = np.stack([params.max_range, params.min_range], axis=1).astype(np.float32)
    np.testing.assert_array_equal(quantizer(x).numpy(), np.broadcast_to(ends, (2, 2)))


# Input that is refused, and input that is left alone.


@every_quantizer
@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool])
def test_integer_input_is_refused(make, dtype):
    for call in (make(), make().quantize):
        with pytest.raises(TypeError, match=f"floating-point.*{dtype}"):
            call(torch.zeros(2, 3, dtype=dtype))


@pytest.mark.parametrize("shape", [(3, 2), (), (1, 2)])
def test_wrong_number_of_channels_is_refused(shape):
    for make in (SAMPLES["weights_symmetric"], SAMPLES["weights_uniform"]):
        for call in (make(), make().quantize):
            with pytest.raises(ValueError, match=r"Received"):
                call(torch.zeros(shape))


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


@every_quantizer
def test_quantizer_has_buffers_alone_and_nothing_to_train(make):
    quantizer = make()
    assert list(quantizer.parameters()) == []
    assert {name: buffer.dtype for name, buffer in quantizer.named_buffers()} == {
        "scale": torch.float32,
        "zero_point": torch.int32,
        "quantization_grid": torch.float32,
    }


# Construction.


@pytest.mark.parametrize(
    "threshold",
    [2, 2.0, [2], (2.0,), [2.0], np.float32(2), np.int64(2), np.array(2.0), np.array([2.0]), torch.tensor([2.0])],
    ids=lambda value: f"{type(value).__name__}",
)
def test_one_number_may_come_in_any_form(threshold):
    expected = from_threshold(2.0, 4)
    assert WeightsSymmetricInferableQuantizer(4, threshold, False).params == expected
    assert WeightsPOTInferableQuantizer(4, threshold, False).params == expected
    assert ActivationSymmetricInferableQuantizer(4, threshold, True).params == expected
    assert ActivationPOTInferableQuantizer(4, threshold, True).params == expected
    assert ActivationUniformInferableQuantizer(4, 0, threshold).params == from_range(0.0, 2.0, 4)


@pytest.mark.parametrize(
    "convert", [list, tuple, np.array, torch.tensor, lambda values: [[[value]] for value in values], np.float32]
)
def test_numbers_of_channels_may_come_in_any_form(convert):
    low, high = [-1.0, -0.5, 0.25], [1.0, 0.25, 3.0]
    quantizer = WeightsUniformInferableQuantizer(4, convert(low), convert(high), True, 0)
    assert quantizer.params == from_range(low, high, 4, axis=0)
    assert WeightsSymmetricInferableQuantizer(4, convert(high), True, 0).params == from_threshold(high, 4, axis=0)


def test_threshold_may_be_a_parameter():
    threshold = nn.Parameter(torch.tensor([1.0, 2.0]))
    assert WeightsSymmetricInferableQuantizer(4, threshold, True, 0).params == from_threshold([1.0, 2.0], 4, axis=0)


def test_numpy_words_are_accepted():
    quantizer = WeightsSymmetricInferableQuantizer(np.int64(4), [1.0], np.bool_(True), np.int32(-1), np.int64(2))
    assert quantizer.params == from_threshold([1.0], 4, axis=-1)
    assert quantizer.quantize(torch.zeros(3, 1)).shape == (3, 1)


ARGUMENT_ERRORS = [
    (WeightsPOTInferableQuantizer, {"threshold": [0.3]}, ValueError, r"`threshold`.*power of two.*0\.3"),
    (ActivationPOTInferableQuantizer, {"threshold": [0.3]}, ValueError, r"`threshold`.*power of two.*0\.3"),
    (WeightsSymmetricInferableQuantizer, {"threshold": [-1.0]}, ValueError, r"`threshold`.*positive.*-1\.0"),
    (WeightsSymmetricInferableQuantizer, {"threshold": [0.0]}, ValueError, r"`threshold`.*positive.*0\.0"),
    (WeightsSymmetricInferableQuantizer, {"threshold": []}, ValueError, r"`threshold`.*\[\]"),
    (WeightsSymmetricInferableQuantizer, {"threshold": [float("nan")]}, ValueError, r"`threshold`.*nan"),
    (WeightsSymmetricInferableQuantizer, {"threshold": None}, TypeError, r"`threshold`.*None"),
    (WeightsSymmetricInferableQuantizer, {"threshold": "1"}, TypeError, r"`threshold`.*'1'"),
    (WeightsSymmetricInferableQuantizer, {"threshold": [1.5, 2.5]}, ValueError, r"`threshold`.*1\.5, 2\.5"),
    (WeightsSymmetricInferableQuantizer, {"num_bits": 0}, ValueError, "`num_bits`.*0"),
    (WeightsSymmetricInferableQuantizer, {"num_bits": 17}, ValueError, "`num_bits`.*17"),
    (WeightsSymmetricInferableQuantizer, {"num_bits": 4.0}, TypeError, r"`num_bits`.*4\.0"),
    (WeightsSymmetricInferableQuantizer, {"num_bits": True}, TypeError, "`num_bits`.*True"),
    (WeightsSymmetricInferableQuantizer, {"per_channel": 2}, TypeError, "`per_channel`.*2"),
    (WeightsSymmetricInferableQuantizer, {"per_channel": True}, ValueError, "`channel_axis`.*None"),
    (
        WeightsSymmetricInferableQuantizer,
        {"per_channel": True, "channel_axis": 0.5},
        TypeError,
        r"`channel_axis`.*0\.5",
    ),
    (
        WeightsSymmetricInferableQuantizer,
        {"per_channel": True, "channel_axis": 4, "input_rank": 4},
        ValueError,
        "`channel_axis`.*`input_rank`=4.*channel_axis=4",
    ),
    (WeightsSymmetricInferableQuantizer, {"signed": 2}, TypeError, "`signed`.*2"),
    (ActivationSymmetricInferableQuantizer, {"signed": None}, TypeError, "`signed`.*None"),
    (ActivationSymmetricInferableQuantizer, {"threshold": [1.5, 2.5]}, ValueError, r"`threshold`.*1\.5, 2\.5"),
    (WeightsUniformInferableQuantizer, {"min_range": [2.0]}, ValueError, r"`min_range`.*2\.0"),
    (WeightsUniformInferableQuantizer, {"min_range": [-1.0, -2.0]}, ValueError, "`min_range`.*2 minima"),
    (WeightsUniformInferableQuantizer, {"max_range": [float("inf")]}, ValueError, "`max_range`.*inf"),
    (ActivationUniformInferableQuantizer, {"min_range": "a"}, TypeError, "`min_range`.*'a'"),
    (ActivationUniformInferableQuantizer, {"min_range": [1.0]}, ValueError, r"`min_range`.*1\.0"),
]
GOOD = {
    WeightsPOTInferableQuantizer: {"num_bits": 4, "threshold": [1.0], "per_channel": False},
    WeightsSymmetricInferableQuantizer: {"num_bits": 4, "threshold": [1.0], "per_channel": False},
    WeightsUniformInferableQuantizer: {"num_bits": 4, "min_range": [-1.0], "max_range": [1.0], "per_channel": False},
    ActivationPOTInferableQuantizer: {"num_bits": 4, "threshold": [1.0], "signed": True},
    ActivationSymmetricInferableQuantizer: {"num_bits": 4, "threshold": [1.0], "signed": True},
    ActivationUniformInferableQuantizer: {"num_bits": 4, "min_range": [-1.0], "max_range": [1.0]},
}


@pytest.mark.parametrize(("cls", "change", "error", "text"), ARGUMENT_ERRORS)
def test_wrong_argument_is_refused_by_name_and_value(cls, change, error, text):
    with pytest.raises(error, match=text):
        cls(**{**GOOD[cls], **change})


@pytest.mark.parametrize("cls", GOOD, ids=lambda cls: cls.__name__)
def test_unknown_argument_is_refused(cls):
    with pytest.raises(TypeError, match="n_bits"):
        cls(**GOOD[cls], n_bits=4)


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
    restored = type(quantizer).from_params(quantizer.params)
    assert restored.params == quantizer.params
    assert torch.equal(restored(x), quantizer(x))


@pytest.mark.parametrize(
    ("cls", "keys"),
    [
        (WeightsPOTInferableQuantizer, {"num_bits", "threshold", "per_channel", "channel_axis", "input_rank"}),
        (WeightsSymmetricInferableQuantizer, {"num_bits", "threshold", "per_channel", "channel_axis", "input_rank"}),
        (
            WeightsUniformInferableQuantizer,
            {"num_bits", "min_range", "max_range", "per_channel", "channel_axis", "input_rank"},
        ),
        (ActivationPOTInferableQuantizer, {"num_bits", "threshold", "signed"}),
        (ActivationSymmetricInferableQuantizer, {"num_bits", "threshold", "signed"}),
        (ActivationUniformInferableQuantizer, {"num_bits", "min_range", "max_range"}),
    ],
)
def test_config_has_the_promised_keys(cls, keys):
    config = cls(**GOOD[cls]).get_config()
    assert keys <= set(config)
    assert GOOD[cls].items() <= config.items()


@every_quantizer
def test_repr_shows_the_configuration(make):
    quantizer = make()
    assert f"num_bits={quantizer.num_bits}" in repr(quantizer)


# State.


@every_quantizer
def test_buffers_are_vectors(make):
    quantizer = make()
    assert quantizer.scale.shape == quantizer.zero_point.shape
    assert quantizer.scale.shape in {(1,), (2,)}
    before = {name: value.shape for name, value in quantizer.state_dict().items()}
    quantizer(batch())
    assert {name: value.shape for name, value in quantizer.state_dict().items()} == before


@every_quantizer
@pytest.mark.parametrize("change", ["half", "bfloat16", "double", "float"])
def test_scale_stays_float32_to_the_bit(make, change):
    quantizer = make()
    scale = quantizer.scale.clone()
    carrier = nn.Sequential(nn.Linear(2, 2), quantizer)
    getattr(carrier, change)()
    assert quantizer.scale.dtype == torch.float32
    assert torch.equal(quantizer.scale, scale)
    assert quantizer.zero_point.dtype == torch.int32
    # The layer beside it does change.
    expected = {"half": torch.float16, "bfloat16": torch.bfloat16, "double": torch.float64, "float": torch.float32}
    assert carrier[0].weight.dtype == expected[change]
    carrier.to(dtype=torch.bfloat16)
    assert torch.equal(quantizer.scale, scale)


@every_quantizer
def test_buffers_follow_the_module_to_a_device(make):
    quantizer = nn.Sequential(make()).to("meta")[0]
    assert quantizer.scale.device.type == quantizer.zero_point.device.type == "meta"
    assert quantizer.scale.dtype == torch.float32
    both = nn.Sequential(make()).to("meta", torch.float16)[0]
    assert (both.scale.device.type, both.scale.dtype) == ("meta", torch.float32)


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
        clone.scale.mul_(2)
        assert torch.equal(quantizer(x), expected)


@every_quantizer
def test_state_loads_strictly_into_a_fresh_quantizer(make):
    quantizer, x = make(), batch()
    quantizer.scale.mul_(1.7)
    if isinstance(quantizer, (WeightsUniformInferableQuantizer, ActivationUniformInferableQuantizer)):
        quantizer.zero_point.add_(1)
    file = io.BytesIO()
    torch.save(quantizer.state_dict(), file)
    file.seek(0)
    fresh = make()
    before = fresh(x)
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert torch.equal(fresh(x), quantizer(x))
    assert not torch.equal(fresh(x), before)
    assert fresh.params == quantizer.params


@pytest.mark.parametrize("name", [name for name in SAMPLES if "pot" not in name])
def test_config_tells_the_loaded_state(name):
    quantizer = SAMPLES[name]()
    state = {**quantizer.state_dict(), "scale": quantizer.scale * 1.7}
    quantizer.load_state_dict(state)
    restored = type(quantizer)(**quantizer.get_config())
    assert restored.params == quantizer.params
    assert torch.equal(restored(batch()), quantizer(batch()))


def test_state_of_another_number_of_channels_is_refused():
    quantizer = SAMPLES["weights_symmetric"]()
    with pytest.raises(RuntimeError, match="size mismatch for scale"):
        quantizer.load_state_dict({"scale": torch.ones(3), "zero_point": torch.zeros(3, dtype=torch.int32)})


# Marks.


@pytest.mark.parametrize(
    ("cls", "target", "method"),
    [
        (WeightsPOTInferableQuantizer, "Weights", "POWER_OF_TWO"),
        (WeightsSymmetricInferableQuantizer, "Weights", "SYMMETRIC"),
        (WeightsUniformInferableQuantizer, "Weights", "UNIFORM"),
        (ActivationPOTInferableQuantizer, "Activation", "POWER_OF_TWO"),
        (ActivationSymmetricInferableQuantizer, "Activation", "SYMMETRIC"),
        (ActivationUniformInferableQuantizer, "Activation", "UNIFORM"),
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


def test_base_carries_no_marks():
    for name in ("quantization_target", "quantization_method", "identifier"):
        assert not hasattr(BasePyTorchInferableQuantizer, name)


# Compilation.


@pytest.mark.parametrize("name", ["weights_uniform", "activation_symmetric"])
def test_compiled_quantizer_equals_eager(name):
    torch._dynamo.reset()
    quantizer, x = SAMPLES[name](), batch()
    compiled = torch.compile(quantizer, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), quantizer(x))


def test_exported_quantizer_equals_eager():
    quantizer, x = SAMPLES["activation_uniform"](), batch()
    exported = torch.export.export(quantizer, (x,)).module()
    assert torch.equal(exported(x), quantizer(x))


def test_quantizer_without_numbers_shows_its_arguments():
    quantizer = WeightsSymmetricInferableQuantizer(4, [1.0, 2.0], True, 0)
    assert repr(quantizer.to("meta")) == repr(WeightsSymmetricInferableQuantizer(4, [1.0, 2.0], True, 0))


def test_weight_quantizer_gives_its_first_result_again_on_demand():
    quantizer = WeightsSymmetricInferableQuantizer(4, [1.0], False)
    first, second = torch.full((3,), 0.3), torch.full((3,), 0.9)
    assert (quantizer.enable_reuse, quantizer.quantizer_first_run, quantizer.resue_outputs) == (False, True, None)
    quantizer(second)
    quantizer.enable_reuse_quantizer()
    outputs = quantizer(first)
    assert quantizer(second) is outputs is quantizer.resue_outputs
    quantizer.disable_reuse_quantizer()
    assert not torch.equal(quantizer(second), outputs)
    quantizer.enable_reuse_quantizer()
    assert not torch.equal(quantizer(second), outputs)


def test_activation_quantizer_quantizes_every_input():
    quantizer = ActivationSymmetricInferableQuantizer(4, [1.0], True)
    quantizer.enable_reuse_quantizer()
    assert not torch.equal(quantizer(torch.full((3,), 0.3)), quantizer(torch.full((3,), 0.9)))


def test_a_class_of_the_users_own_does_not_hide_the_built_in_one():
    from mct_quantizers import mark_quantizer
    from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget, QuantizerID
    from mct_quantizers.common.registry import get_built_in_quantizer_class, get_inferable_quantizer_class
    from mct_quantizers.pytorch.quantizers import BasePyTorchInferableQuantizer, WeightsSymmetricInferableQuantizer

    target, method = QuantizationTarget.Weights, QuantizationMethod.SYMMETRIC

    @mark_quantizer(target, [method], QuantizerID.INFERABLE)
    class Mine(BasePyTorchInferableQuantizer): ...

    try:
        found = get_built_in_quantizer_class(target, method, BasePyTorchInferableQuantizer)
        assert found is WeightsSymmetricInferableQuantizer
        with pytest.raises(ValueError, match=r"\['Mine', 'WeightsSymmetricInferableQuantizer'\]"):
            get_inferable_quantizer_class(target, method, BasePyTorchInferableQuantizer)
    finally:
        Mine.quantization_target = None
