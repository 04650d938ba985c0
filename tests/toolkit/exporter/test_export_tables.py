# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import dataclasses
import io
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from export_networks import settle
from onnx import TensorProto, numpy_helper
from rich.console import Console
from safetensors import safe_open
from torch import nn

import model_compression_toolkit as mct
from mct_quantizers.common import arithmetic, numpy_ops
from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan, TensorPlan, TensorSite
from model_compression_toolkit.core.common.report import plan_table, plan_totals
from model_compression_toolkit.core.pytorch.capture import capture
from model_compression_toolkit.core.pytorch.data import batches_of
from model_compression_toolkit.core.pytorch.surgery import apply_plan, quantizer_of, wrapper_of
from model_compression_toolkit.exporter import export, load, read_plan, save_frozen
from model_compression_toolkit.exporter.common.parity import Compared
from model_compression_toolkit.exporter.pytorch.frozen_model import read_codes
from model_compression_toolkit.exporter.pytorch.parity import compare_onnx
from model_compression_toolkit.ptq.pytorch.quantization_facade import inferable_quantizer
from model_compression_toolkit.trainable_infrastructure.methods.method import method_class, registered_names

TABLES = ("APOT", "LQ_NETS", "LUT")
WEIGHTS, ACTIVATIONS = QuantizationTarget.Weights, QuantizationTarget.Activation
POT, SYMMETRIC, UNIFORM = (
    QuantizationMethod.POWER_OF_TWO,
    QuantizationMethod.SYMMETRIC,
    QuantizationMethod.UNIFORM,
)


class Compact(nn.Module):
    """A convolution with batch norm, a residual addition, linear layers: (N, 3, 6, 6) to (N, 4)."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.body, self.body_norm = nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.BatchNorm2d(6)
        self.middle, self.head = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.body_norm(self.body(x)))
        return self.head(torch.relu(self.middle(x.mean((2, 3)))))


def samples(count=16):
    return torch.randn(count, 3, 6, 6)


def trained(weights, activations, config, network=Compact, data=samples):
    """A frozen network after a few steps with large learning rates, so that everything has moved."""
    inputs = data(32)
    model = mct.prepare_qat(settle(network()), inputs, config, mct.QATConfig(weights, activations))
    optimizer = torch.optim.SGD(model.parameters(), 0.02)
    for _ in range(3):
        loss = (model(inputs) ** 2).sum() / len(inputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return mct.finalize(model)


def config_of(grid, bits=4, granularity="per_channel", **arguments):
    weights = mct.TensorConfig(bits, grid, granularity=granularity)
    return mct.QuantizationConfig(weights, mct.TensorConfig(bits, grid), **arguments)


def check_standard(path):
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", 21)]
    assert {node.domain for node in proto.graph.node} == {""}
    assert not proto.functions
    return proto


def run_file(proto, x, names, optimized):
    """Values in the file by name, computed by ONNX Runtime."""
    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    del shown.graph.output[:]
    for name in names:
        data_type = TensorProto.INT32 if name.endswith("/codes") else TensorProto.FLOAT
        shown.graph.output.append(onnx.helper.make_tensor_value_info(name, data_type, None))
    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, {"x": x}), strict=True))


def same_bits(received, expected):
    np.testing.assert_array_equal(received.view(np.int32), expected.view(np.int32))


@pytest.mark.parametrize("name", registered_names())
def test_models_of_every_method_run_in_onnx_runtime_and_load_again(tmp_path, name):
    method = method_class(name)
    grid = SYMMETRIC if SYMMETRIC in method.supports else UNIFORM
    model = trained(name, name if ACTIVATIONS in method.targets else "LSQ", config_of(grid))
    report = export(model, tmp_path / "model.onnx", verify=samples(), quiet=True)
    check_standard(report.path)
    assert report.parity.passed, str(report.parity)
    assert [tensor.name for tensor in report.parity.tensors] == [t.name for t in mct.plan_of(model).quantized()]
    assert report.parity.not_compared == ()
    assert report.parity.argmax_agreement == 1.0
    assert report.parity.default_session_argmax_agreement == 1.0
    inputs = samples()
    with torch.no_grad():
        assert torch.equal(load(save_frozen(model, tmp_path / "m.safetensors"), Compact())(inputs), model(inputs))


@pytest.mark.parametrize(
    ("name", "granularity", "grid"),
    [
        ("APOT", "per_channel", POT),
        ("APOT", "per_tensor", SYMMETRIC),
        ("LQ_NETS", "per_channel", SYMMETRIC),
        ("LQ_NETS", "per_tensor", POT),
        ("LUT", "per_channel", SYMMETRIC),
        ("LUT", "per_channel", POT),
        ("LUT", "per_tensor", SYMMETRIC),
    ],
)
def test_a_weight_is_stored_as_indices_and_its_values_are_those_of_the_model_bit_by_bit(
    tmp_path, name, granularity, grid
):
    model = trained(name, name, config_of(grid, granularity=granularity))
    plan = mct.plan_of(model)
    report = export(model, tmp_path / "model.onnx", verify=samples(), quiet=True)
    assert report.parity.passed, str(report.parity)
    assert {tensor.compared for tensor in report.parity.tensors} == {Compared.INDICES}
    assert "needs ONNX Runtime 1.23" in "".join(report.notes)
    proto = check_standard(report.path)
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    weights = {tensor.name: tensor for tensor in plan.quantized(WEIGHTS)}
    for weight, tensor in weights.items():
        codes, size = stored[f"{weight}/codes"], tensor.num_elements
        # The first and the last layer have 8 bits.
        assert codes.data_type == (TensorProto.UINT4 if tensor.config.num_bits == 4 else TensorProto.UINT8)
        assert len(codes.raw_data) == (size * tensor.config.num_bits + 7) // 8
        assert tuple(codes.dims) == tensor.site.shape
        assert len(stored[f"{weight}/levels"].raw_data) <= 4 * 2**tensor.config.num_bits
    shapes = {tensor.site.shape for tensor in weights.values()}
    assert shapes.isdisjoint(tuple(t.dims) for t in proto.graph.initializer if t.data_type == TensorProto.FLOAT)
    for optimized in (False, True):
        found = run_file(proto, samples(2).numpy(), [f"{weight}/dequantized" for weight in weights], optimized)
        for weight, tensor in weights.items():
            expected = wrapper_of(model, tensor.site.layer).get_quantized_weights()["weight"].detach().numpy()
            same_bits(found[f"{weight}/dequantized"], expected)


class Through(nn.Module):
    """Gives its input back."""

    def forward(self, x):
        return torch.clone(x)


def quantizer_only(table):
    """A model that only quantizes its input."""
    site = TensorSite("x", "output", ACTIVATIONS, "placeholder", shape=(8,))
    plan = QuantizationPlan((TensorPlan(site, mct.TensorConfig(table.num_bits, POT), table),), mct.CaptureMode.GRAPH)
    return apply_plan(capture(Through()), plan, inferable_quantizer, inferable_quantizer)


def points_of(table):
    """Every level, every boundary with its float32 neighbours, what lies beyond the ends, zeros and infinities."""
    _, boundaries = table.assignment()
    scale = np.float32(table.threshold[0] / table.level_scale)
    divisor = np.float32(table.threshold[0]) + np.float32(table.eps)
    ties = boundaries[:-1] / np.float32(table.level_scale) * divisor
    near = [ties]
    for direction in (np.float32(np.inf), np.float32(-np.inf)):
        step = ties
        for _ in range(3):
            step = np.nextafter(step, direction)
            near.append(step)
    beyond = np.array([np.inf, 3e38, 1e30, 1e-30, 1e-42, 0.0], np.float32)
    random = np.random.default_rng(0).normal(size=4000).astype(np.float32) * np.float32(table.threshold[0])
    return np.concatenate([table.lut_values.astype(np.float32) * scale, *near, beyond, -beyond, random])


LEVELS = np.random.default_rng(3).permutation(np.arange(-32768, 32768))
TABLE_CASES = {
    "one level": LookupTable([3], 2.0, 1),
    "two levels": LookupTable([-1, 1], 1.0, 1),
    "three levels": LookupTable([0, 5, -7], 0.25, 2),
    "unsigned": LookupTable([0, 1, 7, 200], 4.0, 2, signed=False),
    "neighbours in falling order": LookupTable(np.arange(7, -9, -1), 1.0, 4, lut_values_bitwidth=16),
    "levels given twice": LookupTable([5, 5, -3, 9, 5, -3, 0, 1], 1.0, 3),
    "more entries than indices": LookupTable([4, 4, 4, 4, 4, -4], 1.0, 1),
    "15 levels": LookupTable(np.arange(-7, 8) * 9, 0.5, 4),
    "16 levels, not sorted": LookupTable(LEVELS[:16], 8.0, 4, lut_values_bitwidth=16),
    "256 levels, not sorted": LookupTable(LEVELS[:256], 1.0, 8, lut_values_bitwidth=16),
    "17 levels of 8 bits": LookupTable(LEVELS[:17], 1.0, 8, lut_values_bitwidth=16),
    "a threshold as small as eps": LookupTable(LEVELS[:16], 2.0**-26, 4, lut_values_bitwidth=16),
    "a threshold below eps": LookupTable(LEVELS[:16], 2.0**-40, 4, lut_values_bitwidth=16),
    "a large threshold": LookupTable(LEVELS[:16], 2.0**100, 4, lut_values_bitwidth=16),
}


@pytest.mark.parametrize("case", TABLE_CASES)
def test_an_activation_gets_the_values_of_the_reference_at_every_boundary(tmp_path, case):
    table = TABLE_CASES[case]
    model = quantizer_only(table)
    x = points_of(table)
    report = export(model, tmp_path / "model.onnx", verify=torch.from_numpy(x[:, None]), quiet=True)
    assert report.parity.passed
    assert report.parity.tensors[0].num_different == 0
    expected = arithmetic.lut_quantize(x, table, numpy_ops)
    assert len(np.unique(expected)) == len(np.unique(table.lut_values))
    same_bits(model(torch.from_numpy(x)).numpy() + 0.0, expected + 0.0)
    proto = check_standard(report.path)
    for optimized in (False, True):
        found = run_file(proto, x[:, None], ["x.output/codes", "output"], optimized)
        same_bits(found["output"][:, 0] + 0.0, expected + 0.0)
        levels = np.unique(table.lut_values)
        codes = arithmetic.lut_codes(x, table, numpy_ops)
        np.testing.assert_array_equal(levels[found["x.output/codes"][:, 0]], table.lut_values[codes])


def test_what_is_not_a_number_gets_the_lowest_level_as_on_grids(tmp_path):
    table = TABLE_CASES["15 levels"]
    path = tmp_path / "model.onnx"
    export(quantizer_only(table), path, example=torch.zeros(2, 3), quiet=True)
    x = np.full((1, 3), np.nan, np.float32)
    found = run_file(onnx.load(path), x, ["output"], optimized=False)["output"]
    np.testing.assert_array_equal(found, np.full_like(x, -63 / 128 * 0.5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_other_dtypes_keep_their_indices(tmp_path, dtype):
    model = trained("LUT", "LUT", config_of(SYMMETRIC, first_last_bits=4)).to(dtype)
    inputs = samples().to(dtype)
    report = export(model, tmp_path / "model.onnx", verify=inputs, quiet=True)
    assert report.parity.passed, str(report.parity)
    path = save_frozen(model, tmp_path / "model.safetensors")
    with torch.no_grad():
        assert torch.equal(load(path, Compact().to(dtype))(inputs), model(inputs))


def test_a_dtype_that_does_not_tell_the_levels_apart_is_refused(tmp_path):
    model = trained("APOT", "APOT", config_of(SYMMETRIC, bits=8)).bfloat16()
    with pytest.raises(ValueError, match=r"8 bits, which torch\.bfloat16 does not resolve"):
        save_frozen(model, tmp_path / "model.safetensors")


def test_a_channel_that_batch_norm_switches_off_survives(tmp_path):
    class Off(Compact):
        def __init__(self):
            super().__init__()
            self.norm.weight.data[2] = 0.0
            self.norm.weight.data[3] = 1e-9

    torch.manual_seed(1)
    inputs = samples(32)
    network = Off().eval()
    model = mct.finalize(mct.prepare_qat(network, inputs, config_of(SYMMETRIC), mct.QATConfig("LUT", "LUT")))
    threshold = mct.plan_of(model)["stem.weight"].params.threshold
    assert threshold.min() < 1e-30
    report = export(model, tmp_path / "model.onnx", verify=inputs, quiet=True)
    assert report.parity.passed, str(report.parity)
    path = save_frozen(model, tmp_path / "model.safetensors")
    with torch.no_grad():
        assert torch.equal(load(path, Compact())(inputs), model(inputs))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    model = trained("LUT", "LUT", config_of(SYMMETRIC, first_last_bits=4))
    path, data = tmp_path_factory.mktemp("tables") / "model.onnx", samples(40)
    return model, path, data, export(model, path, verify=data, quiet=True)


def planted(exported, tmp_path, name, change):
    """The comparison after `change` edited an array of the file."""
    model, path, data, _ = exported
    proto = onnx.load(path)
    (tensor,) = (tensor for tensor in proto.graph.initializer if tensor.name == name)
    array = np.array(numpy_helper.to_array(tensor))
    is_code = name.endswith("/codes")
    array = np.asarray(change(array.astype(np.int32) if is_code else array))
    raw = array.reshape(-1) if is_code else array.astype(np.float32).reshape(-1)
    tensor.CopyFrom(onnx.helper.make_tensor(name, tensor.data_type, array.shape, raw))
    onnx.save(proto, tmp_path / "changed.onnx")
    return compare_onnx(model, tmp_path / "changed.onnx", batches_of(data))


def test_one_wrong_index_is_found_and_named(exported, tmp_path):
    def flip(codes):
        codes[1, 2, 0, 0] ^= 1
        return codes

    parity = planted(exported, tmp_path, "body.weight/codes", flip)
    assert parity.first_divergence == "body.weight"
    (tensor,) = (tensor for tensor in parity.tensors if tensor.name == "body.weight")
    assert (tensor.num_different, tensor.max_steps, tensor.grid_differs) == (1, 1, False)


@pytest.mark.parametrize(
    "constant",
    [
        "stem.weight/levels",
        "middle.weight/threshold",
        "x.output/levels",
        "relu.output/threshold",
        "relu.output/divisor",
        "x.output/boundaries_0",
        "relu.output/boundaries_3",
    ],
)
def test_another_table_is_found_and_named(exported, tmp_path, constant):
    parity = planted(exported, tmp_path, constant, lambda array: array * np.float32(1.001))
    name = constant.rpartition("/")[0]
    assert parity.first_divergence == name
    assert next(tensor for tensor in parity.tensors if tensor.name == name).grid_differs


def test_a_difference_at_a_tie_is_none_and_one_beside_it_is_found(tmp_path):
    table = TABLE_CASES["neighbours in falling order"]
    model = quantizer_only(table)
    path = tmp_path / "model.onnx"
    # The tie of two levels, 2 and 3 of 32768, of which the table prefers the higher one.
    data = torch.tensor([[2.5], [-7.0]]) * 2.0**-15
    export(model, path, example=data, quiet=True)

    proto = onnx.load(path)
    for shift, passes in ((-1e-10, True), (-0.125, False)):
        changed = onnx.ModelProto()
        changed.CopyFrom(proto)
        node = onnx.helper.make_node("Add", ["x", "shift"], ["shifted"])
        changed.graph.initializer.append(numpy_helper.from_array(np.float32(shift), "shift"))
        changed.graph.node.insert(0, node)
        (search,) = (node for node in changed.graph.node if node.op_type == "Div")
        search.input[0] = "shifted"
        onnx.save(changed, tmp_path / "changed.onnx")
        parity = compare_onnx(model, tmp_path / "changed.onnx", batches_of(data))
        assert parity.tensors[0].num_different > 0
        assert parity.passed is passes


class Layers(nn.Module):
    """Layers of every kind, with a bias and without, with many channels and with one: (N, 3, 6, 6) to (N, 4)."""

    def __init__(self, bias):
        super().__init__()
        self.conv, self.single = nn.Conv2d(3, 8, 3, bias=bias), nn.Conv2d(8, 1, 1, bias=bias)
        self.up, self.hidden = nn.ConvTranspose2d(1, 6, 2, bias=bias), nn.Linear(6 * 25, 16, bias=bias)
        self.last = nn.Linear(16, 4)

    def forward(self, x):
        x = torch.relu(self.up(torch.relu(self.single(torch.relu(self.conv(x))))))
        return self.last(torch.relu(self.hidden(x.flatten(1))))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("in_float", [True, False])
def test_a_default_session_does_not_round_float_weights_to_eight_bits(tmp_path, in_float, bias):
    config = mct.QuantizationConfig.from_bits("w4a8")
    data = samples(64)
    if in_float:
        # The weights alone stay in float: their layers stand between quantized activations.
        torch.manual_seed(0)
        model = mct.quantize(Layers(bias).eval(), data, config)
        keep = [t for t in mct.plan_of(model).quantized(WEIGHTS) if t.name != "last.weight"]
        for tensor in keep:
            wrapper = wrapper_of(model, tensor.site.layer)
            wrapper.set_quantizer("weight", Kept())
    else:
        model = trained("LUT", "LSQ", config, lambda: Layers(bias))
    parity = export(model, tmp_path / "model.onnx", verify=data, quiet=True).parity
    assert parity.passed, str(parity)
    assert parity.default_session_argmax_agreement == 1.0
    assert parity.default_session_max_output_difference < 1e-5


class Kept(nn.Module):
    """A quantizer that leaves its weight as it is."""

    def initialize_quantization(self, tensor_shape, name, layer):
        pass

    def forward(self, inputs):
        return inputs


def test_four_bit_tables_take_half_the_bytes_of_eight_bit_integers(tmp_path):
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(108, 256), nn.Linear(256, 256)

        def forward(self, x):
            return self.last(torch.relu(self.first(x.flatten(1))))

    sizes = {}
    for name, bits in (("LSQ", 8), ("LUT", 4)):
        model = trained(name, "LSQ", config_of(SYMMETRIC, bits, first_last_bits=None), Wide)
        for suffix in ("onnx", "safetensors"):
            report = export(model, tmp_path / f"model.{suffix}", example=samples(2), quiet=True)
            sizes[name, suffix] = report.file_size
    for suffix in ("onnx", "safetensors"):
        assert sizes["LUT", suffix] <= 0.7 * sizes["LSQ", suffix]


def test_a_safetensors_file_holds_packed_indices_and_is_compared(exported, tmp_path):
    model = exported[0]
    report = export(model, tmp_path / "model.safetensors", verify=True, quiet=True)
    plan = mct.plan_of(model)
    weights = plan.quantized(WEIGHTS)
    with safe_open(report.path, framework="np") as file:
        sizes = {key: file.get_tensor(key).nbytes for key in file.keys()}
    for tensor in weights:
        assert sizes[f"{tensor.name}.codes"] == (tensor.num_elements + 1) // 2
        assert tensor.name not in sizes
    assert report.parity.passed
    assert [(t.name, t.compared) for t in report.parity.tensors] == [(t.name, Compared.INDICES) for t in weights]
    # What is not compared is said.
    for tensor in plan.quantized(ACTIVATIONS):
        assert any(tensor.name in line for line in report.parity.not_compared)
        assert f"not compared: {tensor.name}" in str(report.parity)
    codes = read_codes(report.path)
    for tensor in weights:
        levels = np.unique(tensor.params.lut_values) / tensor.params.level_scale
        threshold = tensor.params.threshold.reshape(-1, *[1] * (len(tensor.site.shape) - 1))
        values = (levels[codes[tensor.name]].astype(np.float32) * threshold.astype(np.float32)).astype(np.float32)
        expected = wrapper_of(model, tensor.site.layer).get_quantized_weights()["weight"].detach().numpy()
        same_bits(values, expected)
    # The plan in the file is that of the model, thresholds to the last bit.
    assert read_plan(report.path)[0].to_dict() == plan.to_dict()


def test_indices_beyond_the_table_are_refused(tmp_path):
    model = trained("APOT", "LSQ", config_of(SYMMETRIC, first_last_bits=4))
    assert len(mct.plan_of(model)["body.weight"].params.lut_values) == 15
    path = save_frozen(model, tmp_path / "model.safetensors")
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    offset = json.loads(content[8:header])["body.weight.codes"]["data_offsets"][0]
    changed = bytearray(content)
    changed[header + offset] |= 0x0F
    path.write_bytes(changed)
    with pytest.raises(ValueError, match=r"body\.weight must be from 0 to 14\. Received: \d+ to 15"):
        load(path, Compact())


def test_a_weight_that_a_function_reads_too_is_compared_in_float(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.body = nn.Embedding(10, 8), nn.Linear(8, 8)

        def forward(self, indices):
            return nn.functional.linear(torch.tanh(self.body(self.embedding(indices))), self.embedding.weight)

    data = torch.randint(0, 10, (16, 4))
    prepared = mct.prepare_qat(Tied().eval(), data, config_of(SYMMETRIC), mct.QATConfig("LUT", "LSQ"))
    model = mct.finalize(prepared)
    for name in ("model.safetensors", "model.onnx"):
        parity = export(model, tmp_path / name, verify=data, quiet=True).parity
        assert parity.passed, str(parity)
        assert "embedding.weight" in {tensor.name for tensor in parity.tensors}


def test_plan_and_report_tell_of_tables(exported):
    model = exported[0]
    plan = mct.plan_of(model)
    for tensor in plan.quantized(WEIGHTS):
        assert tensor.num_bytes == (tensor.num_elements + 1) // 2 + 4 * 16
    elements, count = sum(t.num_elements for t in plan.quantized(WEIGHTS)), len(plan.quantized(WEIGHTS))
    assert plan_totals(plan)["weight_bytes"] == elements // 2 + 64 * count
    assert exported[3].parity.weight_bytes == elements // 2 + 64 * count
    table = plan_table(plan)
    rows = dict(zip(table.columns[0].cells, zip(*(column.cells for column in table.columns), strict=True), strict=True))
    assert rows["body.weight"][2:4] == ("4", "table of 16 ×6")
    assert rows["body.weight"][4].startswith("threshold ")
    assert rows["x.output"][3] == "table of 16"
    stream = io.StringIO()
    Console(file=stream, width=100).print(exported[3].parity.render())
    assert any("body.weight" in line and "162 indices" in line for line in stream.getvalue().splitlines())
    assert "indices differ, by at most 0 steps" in str(exported[3].parity)
    values = json.loads(json.dumps(exported[3].to_dict()))["parity"]["tensors"]
    assert {value["compared"] for value in values} == {"indices"}


def test_the_quantizer_of_a_loaded_model_has_the_same_table(exported, tmp_path):
    model = exported[0]
    loaded = load(save_frozen(model, tmp_path / "model.safetensors"), Compact())
    for tensor in mct.plan_of(model).quantized():
        assert quantizer_of(loaded, tensor).params == tensor.params
        assert dataclasses.asdict(mct.plan_of(loaded)[tensor.name].site) == dataclasses.asdict(tensor.site)
