# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Quantizers as operators of the domain `mct_quantizers`: what stands in a file, and what ONNX Runtime makes of it."""

import copy
import io
import logging
import pickle
import subprocess
import sys
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from corner_samples import corners
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch_samples import assert_same_bits

from mct_quantizers import PytorchActivationQuantizationHolder, PytorchQuantizationWrapper, __version__
from mct_quantizers.common import arithmetic, numpy_ops
from mct_quantizers.common.quant_params import QuantParams, from_range
from mct_quantizers.pytorch.onnx_nodes import onnx_form
from mct_quantizers.pytorch.onnx_ops import (
    OPERATORS,
    get_ort_session_options,
    operator_parameters,
    run_operator,
    version_attribute,
)
from mct_quantizers.pytorch.onnxruntime_validations import validate_activation_params, validate_weight_params
from mct_quantizers.pytorch.quantizers import (
    ActivationLutPOTInferableQuantizer,
    ActivationPOTInferableQuantizer,
    ActivationSymmetricInferableQuantizer,
    ActivationUniformInferableQuantizer,
    BasePyTorchInferableQuantizer,
    WeightsLUTPOTInferableQuantizer,
    WeightsLUTSymmetricInferableQuantizer,
    WeightsPOTInferableQuantizer,
    WeightsSymmetricInferableQuantizer,
    WeightsUniformInferableQuantizer,
)

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime_extensions")

EXPORTERS = {
    "default": {"dynamo": True, "verbose": False},
    "not_optimized": {"dynamo": True, "verbose": False, "optimize": False},
    "torchscript": {"dynamo": False},
}
every_exporter = pytest.mark.parametrize("exporter", EXPORTERS)

# Numbers that need more than six digits.
THRESHOLDS = (1.2345678, 0.31, 7.7654321)
POWERS = (2.0, 2.0**-11, 2.0**13)
LOW, HIGH = (-1.7, -0.3, 0.4), (0.9, 2.2, 1.9)
LEVELS = [-25.0, 25.0, 0.0, 100.0]


class Parallel(nn.Module):
    """Quantizers side by side, an input and an output for each: one export for many."""

    def __init__(self, quantizers):
        super().__init__()
        self.quantizers = nn.ModuleList(quantizers)

    def forward(self, inputs):
        return tuple(quantizer(x) for quantizer, x in zip(self.quantizers, inputs, strict=True))


class Network(nn.Module):
    """Every weight and activation quantized, each by another class."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        wrap, hold = PytorchQuantizationWrapper, PytorchActivationQuantizationHolder
        channels = {"per_channel": True, "channel_axis": 0}
        self.body = nn.Sequential(
            hold(ActivationUniformInferableQuantizer(8, [-2.1], [2.7])),
            wrap(
                nn.Conv2d(3, 4, 3), {"weight": WeightsSymmetricInferableQuantizer(4, [0.21, 0.2, 0.3, 0.1], **channels)}
            ),
            nn.ReLU(),
            hold(ActivationSymmetricInferableQuantizer(8, [1.7], signed=False)),
            nn.Flatten(),
            wrap(nn.Linear(64, 8), {"weight": WeightsLUTSymmetricInferableQuantizer(2, LEVELS, [0.13], False)}),
            hold(ActivationPOTInferableQuantizer(6, [2.0], signed=True)),
            wrap(nn.Linear(8, 5), {"weight": WeightsUniformInferableQuantizer(3, [-0.3] * 5, [0.4] * 5, **channels)}),
            hold(ActivationLutPOTInferableQuantizer(2, LEVELS, [2.0], signed=True)),
        )

    def forward(self, x):
        return self.body(x)


def enabled(module: nn.Module) -> nn.Module:
    for part in module.modules():
        if isinstance(part, BasePyTorchInferableQuantizer):
            part.enable_custom_impl()
    return module


def exported(module: nn.Module, args: tuple, exporter: str = "torchscript", **options) -> onnx.ModelProto:
    file = io.BytesIO()
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    logger.setLevel(logging.ERROR)  # reports that torchvision is missing
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*LeafSpec", FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        # TorchScript warns of Python numbers that it takes for constants, which they are.
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        torch.onnx.export(module.eval(), args, file, **EXPORTERS[exporter], **options)
    model = onnx.load_from_string(file.getvalue())
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, *inputs: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), get_ort_session_options())
    return session.run(None, {value.name: x for value, x in zip(session.get_inputs(), inputs, strict=True)})


def constants(model: onnx.ModelProto, node) -> list[np.ndarray]:
    """The inputs of a node that follow the tensor, from `Constant` nodes or initializers."""
    known = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for other in model.graph.node:
        if other.op_type == "Constant":
            value = onnx.helper.get_attribute_value(other.attribute[0])
            is_tensor = isinstance(value, onnx.TensorProto)
            known[other.output[0]] = onnx.numpy_helper.to_array(value) if is_tensor else np.array(value, np.float32)
    return [known[name] for name in node.input[1:]]


def attributes(node) -> dict:
    values = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def custom_nodes(model: onnx.ModelProto) -> list:
    return [node for node in model.graph.node if node.domain == "mct_quantizers"]


def model_of(op_type: str, inputs: list, shape=None, **values) -> onnx.ModelProto:
    """A file of one node, as another writer may have made it."""
    floats = onnx.TensorProto.FLOAT
    named = {f"input_{index}": np.asarray(value, np.float32) for index, value in enumerate(inputs)}
    node = onnx.helper.make_node(op_type, ["x", *named], ["y"], domain="mct_quantizers", **values)
    values = [onnx.helper.make_tensor_value_info(name, floats, shape) for name in "xy"]
    initializers = [onnx.numpy_helper.from_array(value, name) for name, value in named.items()]
    graph = onnx.helper.make_graph([node], "graph", values[:1], values[1:], initializers)
    opsets = [onnx.helper.make_opsetid("", 16), onnx.helper.make_opsetid("mct_quantizers", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)


def table_corners(table) -> np.ndarray:
    """float32, a row for each threshold: random numbers, levels and midpoints with neighbours, special numbers."""
    levels = np.unique(table.lut_values)
    exact = np.concatenate([levels, (levels[1:] + levels[:-1]) / 2])
    special = [0.0, -0.0, 1e-45, -1e-45, 3.4e38, -3.4e38, np.inf, -np.inf, np.nan]
    rows = []
    for threshold in table.threshold.astype(np.float32):
        near = (exact / table.level_scale).astype(np.float32) * (threshold + np.float32(table.eps))
        both = [np.nextafter(near, np.float32(side * np.inf)) for side in (-1, 1)]
        spread = np.random.default_rng(0).normal(0, threshold * 0.6, 300)
        rows.append(np.concatenate([spread, near, *both, special]).astype(np.float32))
    return np.stack(rows)


def samples(quantizer) -> np.ndarray:
    """Numbers that reach every corner, in a tensor of rank 4 with the channels where the quantizer has them."""
    params = quantizer.params
    rows = corners(params, 200) if isinstance(params, QuantParams) else table_corners(params)
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 6)))
    return np.moveaxis(rows.reshape(len(rows), 2, 3, -1), 0, params.axis or 0)


def grids(num_bits: int) -> list:
    """Every class on a grid, per tensor and along several axes."""
    axis = num_bits % 4
    channels = {"per_channel": True, "channel_axis": axis - 4 if num_bits % 2 else axis}
    return [
        ActivationSymmetricInferableQuantizer(num_bits, [THRESHOLDS[0]], signed=True),
        ActivationSymmetricInferableQuantizer(num_bits, [THRESHOLDS[2]], signed=False),
        ActivationPOTInferableQuantizer(num_bits, [POWERS[1]], signed=True),
        ActivationPOTInferableQuantizer(num_bits, [POWERS[0]], signed=False),
        ActivationUniformInferableQuantizer(num_bits, [LOW[0]], [HIGH[0]]),
        ActivationUniformInferableQuantizer(num_bits, [LOW[2]], [HIGH[2]]),
        WeightsSymmetricInferableQuantizer(num_bits, [THRESHOLDS[0]], per_channel=False),
        WeightsSymmetricInferableQuantizer(num_bits, list(THRESHOLDS), **channels),
        WeightsSymmetricInferableQuantizer(num_bits, list(THRESHOLDS), **channels, signed=False),
        WeightsPOTInferableQuantizer(num_bits, [POWERS[1]], per_channel=False),
        WeightsPOTInferableQuantizer(num_bits, list(POWERS), **channels),
        WeightsUniformInferableQuantizer(num_bits, [LOW[1]], [HIGH[1]], per_channel=False),
        WeightsUniformInferableQuantizer(num_bits, list(LOW), list(HIGH), **channels),
    ]


def tables(num_bits: int) -> list:
    """Every class with a lookup table, per tensor and along several axes."""
    axis = num_bits % 4
    channels = {"per_channel": True, "channel_axis": axis - 4 if num_bits % 2 else axis}
    width = num_bits + 2
    signed = np.random.default_rng(num_bits).permutation(np.arange(-(2 ** (width - 1)), 2 ** (width - 1)))
    levels = [float(level) for level in signed[: 2**num_bits]]
    options = {"lut_values_bitwidth": width}
    return [
        WeightsLUTSymmetricInferableQuantizer(num_bits, levels, [THRESHOLDS[0]], False, **options),
        WeightsLUTSymmetricInferableQuantizer(
            num_bits, levels, list(THRESHOLDS), **channels, **options, eps=1.23456789e-3
        ),
        WeightsLUTPOTInferableQuantizer(num_bits, levels, [POWERS[1]], False, **options),
        WeightsLUTPOTInferableQuantizer(num_bits, levels, list(POWERS), **channels, input_rank=4, **options),
        ActivationLutPOTInferableQuantizer(num_bits, levels, [POWERS[1]], signed=True, **options),
        ActivationLutPOTInferableQuantizer(num_bits, np.abs(levels), [POWERS[0]], signed=False, **options),
    ]


def assert_same_as(quantizer, x: np.ndarray, output: np.ndarray) -> None:
    """To the last bit. The torch call of a range that starts at zero adds the zero point, which makes 0.0 of -0.0."""
    adds_zero = isinstance(quantizer.params, QuantParams) and hasattr(quantizer, "min_range")
    assert_same_bits(quantizer(torch.from_numpy(x)), output + np.float16(0) if adds_zero else output)


# Numbers.


@pytest.mark.parametrize("make", [grids, tables])
@pytest.mark.parametrize(
    ("num_bits", "exporter"),
    # The optimizer knows nothing of bits.
    [*((bits, name) for bits in range(2, 9) for name in ("default", "torchscript")), (4, "not_optimized")],
)
def test_onnx_runtime_computes_what_the_quantizer_and_the_reference_compute_bit_for_bit(make, num_bits, exporter):
    quantizers = make(num_bits)
    inputs = [samples(quantizer) for quantizer in quantizers]
    model = exported(enabled(Parallel(quantizers)), ([torch.from_numpy(x) for x in inputs],), exporter)
    plain = sum(isinstance(quantizer, ActivationLutPOTInferableQuantizer) for quantizer in quantizers)
    assert len(custom_nodes(model)) == len(quantizers) - plain
    for quantizer, x, output in zip(quantizers, inputs, run(model, *inputs), strict=True):
        params = quantizer.params
        formula = arithmetic.fake_quantize if isinstance(params, QuantParams) else arithmetic.lut_quantize
        assert (np.isnan(output) == np.isnan(x)).all()
        assert_same_bits(torch.from_numpy(output), formula(x, params, numpy_ops))
        assert_same_as(quantizer, x, output)


@every_exporter
def test_half_precision_is_cast_around_the_node(exporter):
    quantizers = [*grids(4), *tables(4)]
    inputs = [samples(quantizer).clip(-6e4, 6e4).astype(np.float16) for quantizer in quantizers]
    model = exported(enabled(Parallel(quantizers)), ([torch.from_numpy(x) for x in inputs],), exporter)
    assert len(custom_nodes(model)) == len(quantizers) - 2
    for quantizer, x, output in zip(quantizers, inputs, run(model, *inputs), strict=True):
        assert output.dtype == np.float16
        assert_same_as(quantizer, x, output)


@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (2, 0, 3)])
def test_tensors_of_any_shape_run(shape):
    quantizer = enabled(ActivationSymmetricInferableQuantizer(4, [THRESHOLDS[0]], signed=True))
    form, x = onnx_form(quantizer), np.full(shape, 0.4, np.float32)
    output = run(model_of(form.op_type, [], shape, **form.attributes_for(len(shape))), x)[0]
    assert_same_bits(quantizer(torch.from_numpy(x)), output)


# The grid survives the file.


@pytest.mark.parametrize("num_bits", [1, 2, 3, 4, 5, 6, 7, 8, 12, 16])
def test_the_range_in_the_file_gives_the_same_grid_again(num_bits):
    generator = np.random.default_rng(num_bits)
    ends = np.sort(generator.normal(0, 1, (2, 30_000)) * 10.0 ** generator.uniform(-30, 30, 30_000), axis=0)
    quantizer = WeightsUniformInferableQuantizer(num_bits, *ends.tolist(), per_channel=True, channel_axis=0)
    params, form = quantizer.params, onnx_form(quantizer)
    low, high = (np.array(values) for values in form.constants)
    assert (low == low.astype(np.float32)).all()
    assert (high == high.astype(np.float32)).all()
    assert from_range(low, high, num_bits, axis=0) == params
    # The repaired range, up to the precision of float32.
    width = params.max_range - params.min_range
    assert (np.abs(low - params.min_range) <= 2.0**-23 * width).all()
    assert (np.abs(high - params.max_range) <= 2.0**-23 * width).all()
    if num_bits > 1:
        rounded = (params.min_range.astype(np.float32), params.max_range.astype(np.float32))
        assert from_range(*rounded, num_bits, axis=0) != params


@given(st.integers(1, 16), st.floats(-1e30, 1e30), st.floats(-1e30, 1e30))
def test_any_range_of_an_activation_survives_its_attributes(num_bits, low, high):
    low, high = min(low, high), max(low, high)
    try:
        quantizer = ActivationUniformInferableQuantizer(num_bits, low, high)
    except ValueError:
        return
    form = onnx_form(quantizer)
    values = {name: np.float32(value) if isinstance(value, float) else value for name, value in form.attributes.items()}
    # As the extensions hand them over.
    shown = {name: float(f"{value:.6g}") if isinstance(value, np.floating) else value for name, value in values.items()}
    assert operator_parameters(form.op_type, (), tuple(sorted(shown.items()))) == quantizer.params


@pytest.mark.parametrize(("low", "high"), [(0.0, 255.0 * 1.0000001), (-1.1, 0.0), (-3e38, 0.0), (0.0, 1e-35)])
def test_a_range_on_one_side_of_zero_survives(low, high):
    for scale in np.linspace(1, 0.5, 500):
        quantizer = ActivationUniformInferableQuantizer(8, low * scale, high * scale)
        assert onnx_form(quantizer).params == quantizer.params


def test_parameters_that_no_node_holds_are_refused_and_nothing_changes():
    quantizer = ActivationSymmetricInferableQuantizer(1, [1.0], signed=False)
    quantizer.scale.fill_(3e38)
    x, before = torch.ones(3), set(quantizer.__dict__)
    with pytest.raises(ValueError, match="`threshold` must be finite"):
        quantizer.enable_custom_impl()
    assert set(quantizer.__dict__) == before
    narrow = WeightsSymmetricInferableQuantizer(4, [1.0], per_channel=False)
    narrow.quant_min = -7
    with pytest.raises(ValueError, match=r"cannot hold these parameters\. Received: .*quant_min=-7"):
        narrow.enable_custom_impl()
    power = WeightsPOTInferableQuantizer(4, [1.0], per_channel=False)
    power.scale.mul_(1.5)
    with pytest.raises(ValueError, match="`threshold` must be a power of two"):
        power.enable_custom_impl()
    assert not custom_nodes(exported(power, (x,)))


# What stands in the file.

WEIGHTS = {"num_bits": 3, "per_channel": 0, "channel_axis": 0, "signed": 1}
CHANNELS = {**WEIGHTS, "per_channel": 1, "channel_axis": 1}
LUT = {"input_rank": 4, "lut_values_bitwidth": 8, "eps": float(np.float32(1e-8))}
TABLE = {
    "ActivationSymmetricQuantizer": (
        ActivationSymmetricInferableQuantizer(3, [1.5], signed=True),
        [],
        {"threshold": 1.5, "signed": 1, "num_bits": 3},
    ),
    "ActivationPOTQuantizer": (
        ActivationPOTInferableQuantizer(3, [4.0], signed=False),
        [],
        {"threshold": 4.0, "signed": 0, "num_bits": 3},
    ),
    "ActivationUniformQuantizer": (
        ActivationUniformInferableQuantizer(3, [-2.1], [1.4]),
        [],
        {"min_range": -2.0, "max_range": 1.5, "num_bits": 3},
    ),
    "WeightsSymmetricQuantizer": (WeightsSymmetricInferableQuantizer(3, [0.7], False), [[0.7]], WEIGHTS),
    "WeightsPOTQuantizer": (WeightsPOTInferableQuantizer(3, [1.0, 2.0], True, -1), [[1.0, 2.0]], CHANNELS),
    "WeightsUniformQuantizer": (
        WeightsUniformInferableQuantizer(3, [-2.0, -1.0], [1.5, 2.5], True, 1),
        [[-2.0, -1.0], [1.5, 2.5]],
        CHANNELS,
    ),
    "WeightsLUTSymmetricQuantizer": (
        WeightsLUTSymmetricInferableQuantizer(3, LEVELS, [0.7], False),
        [LEVELS, [0.7]],
        {**WEIGHTS, **LUT},
    ),
    "WeightsLUTPOTQuantizer": (
        WeightsLUTPOTInferableQuantizer(3, LEVELS, [1.0, 2.0], True, -1),
        [LEVELS, [1.0, 2.0]],
        {**CHANNELS, **LUT, "input_rank": 2},
    ),
}


def test_the_table_is_complete():
    assert set(TABLE) == set(OPERATORS)


@every_exporter
@pytest.mark.parametrize("op_type", TABLE)
def test_inputs_and_attributes_of_each_operator_are_the_promised_ones(op_type, exporter):
    quantizer, inputs, expected = TABLE[op_type]
    model = exported(enabled(copy.deepcopy(quantizer)), (torch.zeros(3, 2),), exporter)
    (node,) = custom_nodes(model)
    assert node.op_type == op_type
    assert {item.domain: item.version for item in model.opset_import}["mct_quantizers"] == 1
    found = attributes(node)
    version = found.pop("mctq_version")
    assert version == __version__
    assert found == expected
    assert {name: type(value) for name, value in found.items()} == {
        name: type(value) for name, value in expected.items()
    }
    for actual, wanted in zip(constants(model, node), inputs, strict=True):
        assert actual.dtype == np.float32
        np.testing.assert_array_equal(actual, np.array(wanted, np.float32))
    kinds = Counter(other.op_type for other in model.graph.node)
    # The optimizer of the default exporter turns the nodes into initializers.
    assert kinds["Constant"] == (0 if exporter == "default" else len(inputs))
    output = model.graph.output[0].type.tensor_type
    assert output.elem_type == onnx.TensorProto.FLOAT
    assert [size.dim_value for size in output.shape.dim] == [3, 2]


def test_the_bits_of_attributes_follow_the_version_only_where_six_digits_do_not_suffice():
    assert version_attribute([0.5, -1.25]) == version_attribute([0.1]) == __version__
    assert version_attribute([1.25, 1 / 3]) == f"{__version__}+float32.3fa00000.3eaaaaab"


@pytest.mark.parametrize("version", ["1.6.0", "1.6.0+local.1", version_attribute([1.2345678])])
def test_a_file_of_another_writer_runs(version):
    x = np.linspace(-2, 2, 400, dtype=np.float32)
    node = {"threshold": 1.2345678, "signed": 1, "num_bits": 4, "mctq_version": version}
    expected = ActivationSymmetricInferableQuantizer(4, [1.2345678], signed=True)(torch.from_numpy(x)).numpy()
    output = run(model_of("ActivationSymmetricQuantizer", [], **node), x)[0]
    np.testing.assert_allclose(output, expected, rtol=5e-6)
    assert np.array_equal(output, expected) == ("float32" in version)


def test_a_power_of_two_of_another_writer_is_exact():
    x = np.linspace(-2, 2, 400, dtype=np.float32) / 1000
    node = {"threshold": 2.0**-10, "signed": 1, "num_bits": 4, "mctq_version": "1.6.0"}
    output = run(model_of("ActivationPOTQuantizer", [], **node), x)[0]
    assert_same_bits(ActivationPOTInferableQuantizer(4, [2.0**-10], signed=True)(torch.from_numpy(x)), output)


# A whole model.


@every_exporter
def test_a_model_of_wrappers_and_holders_runs_as_in_torch(exporter):
    model = Network().eval()
    x = torch.randn(16, 3, 6, 6)
    before = model(x)  # the weights are kept from now on
    state = {name: value.clone() for name, value in model.state_dict().items()}
    dynamic = {"dynamic_axes": {"x": {0: "batch"}}} if exporter == "torchscript" else {}
    if not dynamic:
        dynamic = {"dynamic_shapes": {"x": {0: torch.export.Dim.AUTO}}}
    file = exported(enabled(model), (x[:2],), exporter, input_names=["x"], **dynamic)
    assert Counter(node.op_type for node in custom_nodes(file)) == Counter(
        (
            "ActivationUniformQuantizer",
            "WeightsSymmetricQuantizer",
            "ActivationSymmetricQuantizer",
            "WeightsLUTSymmetricQuantizer",
            "ActivationPOTQuantizer",
            "WeightsUniformQuantizer",
        )
    )
    output = run(file, x.numpy())[0]
    # Sums are ordered otherwise: a value on an edge may take the neighbouring level.
    assert np.isclose(output, before.numpy(), atol=1e-5).mean() > 0.98
    assert len(np.unique(output)) > 2
    assert torch.equal(model(x), before)
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_without_the_call_a_quantizer_exports_as_plain_operators():
    quantizer = ActivationSymmetricInferableQuantizer(4, [1.3], signed=True)
    x = samples(quantizer)
    for exporter in EXPORTERS:
        model = exported(quantizer, (torch.from_numpy(x),), exporter)
        assert not custom_nodes(model)
        np.testing.assert_array_equal(run(model, x)[0], quantizer(torch.from_numpy(x)).numpy())


def test_the_call_changes_nothing_but_the_export():
    for quantizer in (*grids(4), *tables(4)):
        x = torch.from_numpy(samples(quantizer))
        before, keys = quantizer(x), quantizer.state_dict().keys()
        assert enabled(quantizer).state_dict().keys() == keys
        for other in (quantizer, copy.deepcopy(quantizer), pickle.loads(pickle.dumps(quantizer))):
            assert_same_bits(other(x), before.numpy())
            assert other.get_config() == quantizer.get_config()
        torch._dynamo.reset()
        assert_same_bits(torch.compile(quantizer, fullgraph=True, backend="eager")(x), before.numpy())
    half = torch.export.export(quantizer, (x,)).module()(x)
    assert_same_bits(half, before.numpy())


@pytest.mark.parametrize("duplicate", [lambda q: q, copy.deepcopy, lambda q: pickle.loads(pickle.dumps(q))])
def test_a_state_that_is_loaded_later_is_what_is_exported(duplicate):
    quantizers = Parallel([WeightsSymmetricInferableQuantizer(4, [1.3, 0.4], True, 0), *tables(3)[1:2]])
    loaded = duplicate(enabled(quantizers))
    state = {
        name: value * 0.77 if name.endswith(("scale", "threshold")) else value
        for name, value in loaded.state_dict().items()
    }
    loaded.load_state_dict(state)
    inputs = [samples(quantizer) for quantizer in loaded.quantizers]
    for exporter in EXPORTERS:
        model = exported(loaded, ([torch.from_numpy(x) for x in inputs],), exporter)
        assert len(custom_nodes(model)) == 2
        for quantizer, x, output in zip(loaded.quantizers, inputs, run(model, *inputs), strict=True):
            assert_same_bits(quantizer(torch.from_numpy(x)), output)


def test_a_node_stays_on_the_device_of_its_input():
    class OnDevice(nn.Module):
        def __init__(self):
            super().__init__()
            self.quantizer = ActivationSymmetricInferableQuantizer(4, [1.3], signed=True)

        def forward(self, x):
            # torch refuses to add tensors of two devices.
            return self.quantizer(x) + x

    x = torch.zeros(2, device="meta")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*LeafSpec", FutureWarning)
        program = torch.onnx.export(enabled(OnDevice()).eval(), (x,), **EXPORTERS["not_optimized"])
    assert [node.op_type for node in program.model.graph if node.op_type != "Cast"] == [
        "ActivationSymmetricQuantizer",
        "Add",
    ]


def test_a_class_of_the_user_exports_its_own_call_or_the_node_of_its_base():
    class Halving(BasePyTorchInferableQuantizer):
        def forward(self, inputs):
            return inputs / 2

    class Renamed(WeightsPOTInferableQuantizer):
        pass

    model = exported(enabled(Parallel([Halving(), Renamed(4, [1.0], False)])), ([torch.ones(2), torch.ones(2)],))
    assert [node.op_type for node in model.graph.node if node.op_type != "Constant"] == ["Div", "WeightsPOTQuantizer"]


def test_what_no_node_takes_is_refused():
    form = onnx_form(WeightsSymmetricInferableQuantizer(4, [1.0, 2.0], True, 0))
    with pytest.raises(TypeError, match=r"takes float32, float16 or bfloat16\. Received: dtype torch.float64"):
        form(torch.zeros(2, dtype=torch.float64))
    with pytest.raises(TypeError, match=r"Received: dtype torch\.int64"):
        form(torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="must have 2 channels along axis 0"):
        form(torch.zeros(3, 2))


# The engine.


def test_options_can_be_asked_for_again_and_sessions_live_side_by_side():
    file = exported(enabled(ActivationPOTInferableQuantizer(4, [1.0], True)), (torch.zeros(2),)).SerializeToString()
    sessions = [onnxruntime.InferenceSession(file, get_ort_session_options()) for _ in range(3)]
    x = np.array([0.3, -7], np.float32)
    for session in sessions:
        assert session.run(None, {session.get_inputs()[0].name: x})[0].tolist() == [0.25, -1.0]


GOOD = {"num_bits": 4, "per_channel": 1, "channel_axis": 0, "signed": 1, "mctq_version": "1"}


@pytest.mark.parametrize(
    ("op_type", "inputs", "values", "reason"),
    [
        ("WeightsSymmetricQuantizer", [[1.0, 2.0]], GOOD, "must have 2 channels along axis 0"),
        ("WeightsSymmetricQuantizer", [[1.0, 2.0, -1.0]], GOOD, "`threshold` must be positive"),
        ("WeightsPOTQuantizer", [[1.0, 2.0, 3.0]], GOOD, "`threshold` must be a power of two"),
        ("WeightsSymmetricQuantizer", [[1.0, 2.0, 3.0]], {**GOOD, "num_bits": 99}, "`num_bits` must be from 1 to 16"),
        (
            "WeightsLUTSymmetricQuantizer",
            [LEVELS, [1.0, 2.0, 3.0]],
            {**GOOD, **LUT},
            "The input must have rank 4. Received: shape (3, 2)",
        ),
        (
            "WeightsLUTPOTQuantizer",
            [LEVELS, [1.0, 2.0, 3.0]],
            {**GOOD, **LUT, "input_rank": 2},
            "`threshold` must be a power of two",
        ),
        (
            "ActivationSymmetricQuantizer",
            [],
            {"threshold": 1.5, "signed": 1, "num_bits": 4, "mctq_version": "0.1.0+float32.3f800000"},
            "`mctq_version` must end in the bits of the attributes",
        ),
        (
            "ActivationPOTQuantizer",
            [],
            {"threshold": 1.5, "signed": 1, "num_bits": 4, "mctq_version": "1"},
            "`threshold` must be a power of two",
        ),
    ],
)
def test_a_node_that_makes_no_sense_gives_nan_and_the_reason(op_type, inputs, values, reason, caplog):
    x = np.zeros((3, 2), np.float32)
    output = run(model_of(op_type, inputs, **values), x)[0]
    assert output.shape == x.shape
    assert np.isnan(output).all()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert f"The output of mct_quantizers::{op_type} is NaN: " in caplog.text
    assert reason in caplog.text
    with pytest.raises(ValueError, match=reason.split(".")[0].replace("(", r"\(")):
        run_operator(op_type, x, inputs, values)


def in_a_process(code: str) -> str:
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


@pytest.mark.parametrize("missing", ["onnxruntime", "onnxruntime_extensions"])
def test_a_missing_package_is_named_with_the_remedy(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"`get_ort_session_options` needs {missing}, .*infrastructure\[onnx\]'"):
        get_ort_session_options()


def test_the_kernels_need_no_torch():
    code = """
import sys
sys.modules["torch"] = None
from mct_quantizers.pytorch.onnx_ops import get_ort_session_options
assert "onnxruntime" not in sys.modules
print(type(get_ort_session_options()).__name__)
"""
    assert in_a_process(code) == "SessionOptions"


# Checks on arrays.


def test_ranges_that_fit_are_accepted():
    weight, one, two = np.zeros((2, 3), np.float32), np.ones(1, np.float32), np.ones(2, np.float32)
    validate_weight_params(weight, -one, one, False, None)
    validate_weight_params(weight, -two, two, True, 0)
    validate_weight_params(weight, -two, two, True, -2)
    validate_activation_params(weight, -1.0, 0.5)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"input_tensor": [1.0]}, TypeError, "`input_tensor` must be a numpy.ndarray. Received: list"),
        ({"min_range": [-1.0, -1.0]}, TypeError, "`min_range` must be a numpy.ndarray"),
        ({"max_range": 1.0}, TypeError, "`max_range` must be a numpy.ndarray. Received: float"),
        ({"min_range": -np.ones((2, 1))}, ValueError, r"`min_range` must have one axis. Received: shape \(2, 1\)"),
        ({"max_range": np.ones((1, 2))}, ValueError, "`max_range` must have one axis"),
        ({"max_range": np.ones(3)}, ValueError, "must have the same length"),
        ({"max_range": np.array([1.0, -1.0])}, ValueError, "`min_range` must be below `max_range`"),
        ({"max_range": np.array([1.0, np.nan])}, ValueError, "`max_range` must be finite"),
        ({"channel_axis": None}, ValueError, "`channel_axis` must be given"),
        ({"channel_axis": 1}, ValueError, "must have 2 channels along axis 1"),
        ({"channel_axis": 2}, ValueError, "`channel_axis` must be from -2 to 1"),
        ({"per_channel": False}, ValueError, "must hold one number when `per_channel` is False"),
        ({"per_channel": 2}, TypeError, "`per_channel` must be True or False"),
    ],
)
def test_ranges_of_weights_that_do_not_fit_are_refused(changes, error, text):
    good = {"min_range": -np.ones(2), "max_range": np.ones(2), "per_channel": True, "channel_axis": 0}
    with pytest.raises(error, match=text):
        validate_weight_params(**{"input_tensor": np.zeros((2, 3)), **good, **changes})


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (([1.0], -1.0, 1.0), TypeError, "`input_tensor` must be a numpy.ndarray"),
        ((np.zeros(2), -1, 1.0), TypeError, "`min_range` must be a float. Received: min_range=-1"),
        ((np.zeros(2), -1.0, np.ones(1)), TypeError, "`max_range` must be a float"),
        ((np.zeros(2), 1.0, 1.0), ValueError, "`min_range` must be below `max_range`"),
        ((np.zeros(2), 1.0, float("inf")), ValueError, "`max_range` must be finite"),
    ],
)
def test_ranges_of_activations_that_do_not_fit_are_refused(arguments, error, text):
    with pytest.raises(error, match=text):
        validate_activation_params(*arguments)
