# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from export_networks import ZOO, Branching, Images, Residual, Small, Words, images, settle, words
from onnx import TensorProto, numpy_helper
from torch import nn

import model_compression_toolkit as mct
from mct_quantizers.common import arithmetic, numpy_ops
from mct_quantizers.common.quant_info import QuantizationTarget
from mct_quantizers.common.quant_params import from_range, from_threshold
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan, TensorPlan, TensorSite
from model_compression_toolkit.core.pytorch.capture import capture
from model_compression_toolkit.core.pytorch.surgery import apply_plan
from model_compression_toolkit.exporter import export, read_plan
from model_compression_toolkit.ptq.pytorch.quantization_facade import inferable_quantizer

INTEGERS = {
    TensorProto.INT4: (-8, 7),
    TensorProto.UINT4: (0, 15),
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT8: (0, 255),
    TensorProto.INT16: (-32768, 32767),
    TensorProto.UINT16: (0, 65535),
}


def initializers(path):
    return {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}


def check_file(path, model):
    """Standard operators only; integers of the NumPy reference in the narrowest type; no float copy of a weight."""
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", 21)]
    assert {node.domain for node in proto.graph.node} == {""}
    assert not proto.functions
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    plan = mct.plan_of(model)
    assert read_plan(path)[0].to_dict() == plan.to_dict()
    for tensor in plan.quantized(QuantizationTarget.Weights):
        stored = tensors[f"{tensor.name}/codes"]
        weight = model.get_submodule(tensor.site.layer).get_parameter("weight").detach().numpy()
        expected = arithmetic.quantize(weight, tensor.params, numpy_ops)
        np.testing.assert_array_equal(numpy_helper.to_array(stored).astype(np.int32), expected)
        low, high = INTEGERS[stored.data_type]
        assert low <= tensor.params.quant_min <= tensor.params.quant_max <= high
        if tensor.params.num_bits <= 4:
            assert stored.data_type in (TensorProto.INT4, TensorProto.UINT4)
            assert len(stored.raw_data) == (weight.size + 1) // 2
        elif tensor.params.num_bits <= 8:
            assert stored.data_type in (TensorProto.INT8, TensorProto.UINT8)
        assert f"{tensor.name}/dequantized" in {node.output[0] for node in proto.graph.node}
    quantized_shapes = {t.site.shape for t in plan.quantized(QuantizationTarget.Weights)}
    floats = [tuple(t.dims) for t in proto.graph.initializer if t.data_type == TensorProto.FLOAT]
    assert quantized_shapes.isdisjoint(floats)
    outputs = {name for node in proto.graph.node for name in node.output}
    for tensor in plan.quantized(QuantizationTarget.Activation):
        assert f"{tensor.name}/codes" in outputs | set(tensors)
    for node in proto.graph.node:
        assert not node.metadata_props
    assert b"/tests/" not in path.read_bytes()


@pytest.mark.parametrize("bits", ["w8a8", "w4a4", "w2a2"])
@pytest.mark.parametrize("name", ZOO)
def test_every_operator_runs_in_onnx_runtime_as_in_the_model(tmp_path, name, bits):
    network, data = ZOO[name]
    model = mct.quantize(settle(network()), data(32), mct.QuantizationConfig.from_bits(bits))
    path = tmp_path / "model.onnx"
    report = export(model, path, verify=data(50), quiet=True)
    check_file(path, model)
    parity = report.parity
    assert parity.passed, str(parity)
    assert [tensor.name for tensor in parity.tensors] == [t.name for t in mct.plan_of(model).quantized()]
    assert parity.argmax_agreement == 1.0
    assert parity.num_samples == 50
    assert report.notes == ()
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("method", [mct.QuantizationMethod.UNIFORM, mct.QuantizationMethod.POWER_OF_TWO])
def test_other_grids_of_weights_and_activations(tmp_path, method):
    config = mct.QuantizationConfig(
        weights=mct.TensorConfig(5, method, granularity=mct.Granularity.PER_CHANNEL),
        activations=mct.TensorConfig(6, method),
        first_last_bits=None,
        quantize_output=True,
    )
    model = mct.quantize(settle(Images()), images(32), config)
    report = export(model, tmp_path / "model.onnx", verify=images(20), quiet=True)
    check_file(tmp_path / "model.onnx", model)
    assert report.parity.passed, str(report.parity)


def test_wide_integers(tmp_path):
    config = mct.QuantizationConfig.from_bits("w16a16", first_last_bits=None)
    model = mct.quantize(Small().eval(), torch.randn(32, 16), config)
    report = export(model, tmp_path / "model.onnx", verify=torch.randn(20, 16), quiet=True)
    check_file(tmp_path / "model.onnx", model)
    assert report.parity.passed, str(report.parity)


@pytest.mark.parametrize("bits", ["w8a8", "w4a4"])
def test_what_was_trained_is_what_runs(tmp_path, bits):
    data, labels = images(32), torch.randint(0, 5, (32,))
    model = mct.prepare_qat(settle(Residual()), data, mct.QuantizationConfig.from_bits(bits))
    assert mct.plan_of(model).live_batch_norms
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for _ in range(4):
        nn.functional.cross_entropy(model(data), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    with pytest.raises(ValueError, match="finalize"):
        export(model, tmp_path / "model.onnx", example=data)
    frozen = mct.finalize(model)
    report = export(frozen, tmp_path / "model.onnx", verify=images(50), quiet=True)
    check_file(tmp_path / "model.onnx", frozen)
    assert report.parity.passed, str(report.parity)
    assert report.parity.argmax_agreement == 1.0


WIDTHS = (2, 3, 4, 5, 6, 7, 8, 16)


class Through(nn.Module):
    """Gives its inputs back."""

    def forward(self, bits_2, bits_3, bits_4, bits_5, bits_6, bits_7, bits_8, bits_16):
        inputs = (bits_2, bits_3, bits_4, bits_5, bits_6, bits_7, bits_8, bits_16)
        return tuple(torch.clone(item) for item in inputs)


def quantizers_only(grids, method):
    """A model that only quantizes its inputs, one for each width."""

    def planned(params):
        site = TensorSite(f"bits_{params.num_bits}", "output", QuantizationTarget.Activation, "placeholder")
        return TensorPlan(site, mct.TensorConfig(params.num_bits, method), params)

    plan = QuantizationPlan(tuple(map(planned, grids)), mct.CaptureMode.GRAPH)
    return apply_plan(capture(Through()), plan, inferable_quantizer, inferable_quantizer)


def points_of(params):
    """Every code, every tie with its float32 neighbours, what lies beyond the ends, zeros and infinities."""
    scale = np.float32(params.scale[0])
    centered = np.arange(params.quant_min - 2, params.quant_max + 3) - params.zero_point[0]
    codes, ties = (centered.astype(np.float32) * scale, (centered.astype(np.float32) + np.float32(0.5)) * scale)
    beyond = np.array([np.inf, 1e30, 1e-30, 1e-42, 0.0], np.float32)
    neighbours = [np.nextafter(ties, np.float32(sign * np.inf)) for sign in (1, -1)]
    return np.concatenate([codes, ties, *neighbours, beyond, -beyond])


GRIDS = {
    "signed": (lambda bits: from_threshold(1.7, bits, True), mct.QuantizationMethod.SYMMETRIC),
    "unsigned": (lambda bits: from_threshold(0.9, bits, False), mct.QuantizationMethod.SYMMETRIC),
    "power of two": (lambda bits: from_threshold(2.0, bits, True), mct.QuantizationMethod.POWER_OF_TWO),
    "uniform": (lambda bits: from_range(-0.7, 1.9, bits), mct.QuantizationMethod.UNIFORM),
    "uniform, odd zero point": (lambda bits: from_range(-1.0, 2.0**bits - 2.0, bits), mct.QuantizationMethod.UNIFORM),
    "uniform, below zero": (lambda bits: from_range(-3.0, 0.0, bits), mct.QuantizationMethod.UNIFORM),
}


@pytest.mark.parametrize("grid", GRIDS)
def test_codes_in_onnx_runtime_are_those_of_the_reference(tmp_path, grid):
    make, method = GRIDS[grid]
    grids = [make(num_bits) for num_bits in WIDTHS]
    path = tmp_path / "model.onnx"
    export(quantizers_only(grids, method), path, example=[[torch.zeros(2)] * len(WIDTHS)], quiet=True)
    proto = onnx.load(path)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    types = {np.dtype("uint8"): TensorProto.UINT8, np.dtype("uint16"): TensorProto.UINT16}
    for node in [node for node in proto.graph.node if node.op_type == "QuantizeLinear"]:
        data_type = types[tensors[node.input[2]].dtype]
        proto.graph.output.append(onnx.helper.make_tensor_value_info(node.output[0], data_type, None))
    length = len(points_of(grids[-1]))
    feeds = {f"bits_{params.num_bits}": np.resize(points_of(params), length) for params in grids}
    for level in (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
        onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    ):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_outputs()]
        results = dict(zip(names, session.run(None, feeds), strict=True))
        for index, params in enumerate(grids):
            name = f"bits_{params.num_bits}"
            expected = arithmetic.quantize(feeds[name], params, numpy_ops)
            assert set(expected.tolist()) == set(range(params.quant_min, params.quant_max + 1))
            shift = int(tensors[f"{name}.output/zero_point"]) - int(params.zero_point[0])
            np.testing.assert_array_equal(results[f"{name}.output/codes"].astype(np.int32) - shift, expected)
            values = arithmetic.fake_quantize(feeds[name], params, numpy_ops)
            np.testing.assert_array_equal(results[f"output_{index}"], values)


def test_export_does_not_change_the_model(tmp_path):
    model = mct.quantize(Small().eval(), torch.randn(32, 16)).train()
    model.first.eval()
    before = copy.deepcopy(model.state_dict())
    modes = {name: module.training for name, module in model.named_modules()}
    kinds = {name: type(module) for name, module in model.named_modules()}
    export(model, tmp_path / "model.onnx", verify=torch.randn(4, 16), quiet=True)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name: type(module) for name, module in model.named_modules()} == kinds


def test_exporting_twice_gives_the_same_file(tmp_path):
    model = mct.quantize(Small().eval(), torch.randn(32, 16))
    first, second = (tmp_path / name for name in ("a.onnx", "b.onnx"))
    export(model, first, example=torch.randn(3, 16), quiet=True)
    export(model, second, example=torch.randn(1, 16), quiet=True)
    assert first.read_bytes() == second.read_bytes()
    export(model, first, example=torch.randn(3, 16), quiet=True)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_other_dtypes_keep_their_integers(tmp_path, dtype):
    model = mct.quantize(Small().eval(), torch.randn(32, 16)).to(dtype)
    report = export(model, tmp_path / "model.onnx", verify=torch.randn(8, 16, dtype=dtype), quiet=True)
    assert report.parity.passed, str(report.parity)
    stored = initializers(tmp_path / "model.onnx")["first.weight/codes"]
    weight = model.first.weight.detach()
    values = weight.float().numpy() if dtype.itemsize < 4 else weight.numpy()
    expected = arithmetic.quantize(values, mct.plan_of(model)["first.weight"].params, numpy_ops)
    np.testing.assert_array_equal(numpy_helper.to_array(stored), expected)


def test_a_batch_size_that_is_fixed_is_said_and_verified(tmp_path):
    class Fixed(Small):
        def forward(self, x):
            return super().forward(x.view(4, 16))

    model = mct.quantize(Fixed().eval(), [torch.randn(4, 16)])
    report = export(model, tmp_path / "model.onnx", [torch.randn(4, 16)], [torch.randn(10, 16)], quiet=True)
    assert "batch size is fixed to 4" in report.notes[0]
    assert "batch size is fixed to 4" in str(report)
    assert report.parity.passed
    assert report.parity.num_samples == 10
    assert onnx.load(tmp_path / "model.onnx").graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4


def test_several_inputs_and_outputs(tmp_path):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(16, 8), nn.Linear(4, 8)

        def forward(self, wide, narrow):
            x = torch.relu(self.left(wide)) * self.right(narrow)
            return {"sum": x.sum(1), "parts": (x, x.argmax(1))}

    data = [(torch.randn(n, 16), torch.randn(n, 4)) for n in (8, 70, 3)]
    model = mct.quantize(Pair().eval(), data)
    report = export(model, tmp_path / "model.onnx", verify=data, quiet=True)
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert [value.name for value in graph.input] == ["wide", "narrow"]
    assert [value.name for value in graph.output] == ["sum", "parts_0", "parts_1"]
    assert report.parity.passed
    assert report.parity.num_samples == 81
    assert report.parity.argmax_agreement == 1.0


def test_module_by_module_capture_with_a_layer_that_runs_twice(tmp_path):
    class Twice(Branching):
        def forward(self, x):
            return self.last(self.body(torch.tanh(self.body(x))))

    config = mct.QuantizationConfig(capture="modules")
    model = mct.quantize(Twice().eval(), torch.randn(32, 16), config)
    report = export(model, tmp_path / "model.onnx", verify=torch.randn(20, 16), quiet=True)
    assert report.parity.passed, str(report.parity)
    counted = {tensor.name: tensor.num_elements for tensor in report.parity.tensors}
    assert counted["body.input"] == 2 * 20 * 16
    graph = onnx.load(tmp_path / "model.onnx").graph
    outputs = [name for node in graph.node for name in node.output if name.endswith("/codes")]
    assert outputs == ["body.input/codes", "body.input:2/codes", "last.input/codes"]


def test_control_flow_that_depends_on_the_data_is_refused_with_the_reason(tmp_path):
    model = mct.quantize(Branching().eval(), torch.randn(32, 16))
    with pytest.raises(ValueError, match=r"cannot be exported to ONNX.*depends on the data.*Reason: \w+"):
        export(model, tmp_path / "model.onnx", example=torch.randn(4, 16))
    assert list(tmp_path.iterdir()) == []


def test_inputs_that_the_model_does_not_take(tmp_path):
    model = mct.quantize(Words().eval(), words(16))
    with pytest.raises(ValueError, match="failed on a batch of"):
        export(model, tmp_path / "model.onnx", example=torch.randn(4, 3))
    with pytest.raises(ValueError, match="give `example`, or `verify`"):
        export(model, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="at least one batch"):
        export(model, tmp_path / "model.onnx", verify=[])
    with pytest.raises(ValueError, match="without a plan"):
        export(Words(), tmp_path / "model.onnx", words())
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        export("model", tmp_path / "model.onnx", words())


def test_four_bit_weights_take_half_the_bytes(tmp_path):
    class Wide(Small):
        def __init__(self):
            super().__init__()
            self.middle = nn.Linear(32, 32)
            self.first, self.last = nn.Linear(16, 256), nn.Linear(256, 4)
            self.middle = nn.Linear(256, 256)

        def forward(self, x):
            return self.last(torch.relu(self.middle(torch.relu(self.first(x)))))

    sizes = {}
    for bits in ("w8a8", "w4a8"):
        model = mct.quantize(Wide().eval(), torch.randn(32, 16), mct.QuantizationConfig.from_bits(bits))
        report = export(model, tmp_path / f"{bits}.onnx", example=torch.randn(2, 16), quiet=True)
        codes = [t for name, t in initializers(report.path).items() if name.endswith("weight/codes")]
        sizes[bits] = sum(len(tensor.raw_data) for tensor in codes)
        # The middle weight alone would take 262 144 bytes in float32.
        assert report.file_size < 110_000
    assert sizes["w4a8"] <= 0.6 * sizes["w8a8"]


class Biased(nn.Module):
    """Layers of every kind that takes a bias, each with one that matters."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.grouped = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, groups=4)
        self.transposed, self.last = nn.ConvTranspose2d(8, 4, 3), nn.Linear(4 * 36, 5)

    def forward(self, x):
        x = torch.relu(self.grouped(torch.relu(self.conv(x))))
        return self.last(torch.flatten(torch.relu(self.transposed(x)), 1))


@pytest.mark.parametrize("bits", ["w4a4", "w2a2", "w4a8", "w8a4"])
def test_below_eight_bits_a_default_session_computes_what_was_trained(tmp_path, bits):
    samples = torch.randn(128, 1, 8, 8)
    model = mct.quantize(Biased().eval(), samples, mct.QuantizationConfig.from_bits(bits))
    parity = export(model, tmp_path / "model.onnx", verify=samples, quiet=True).parity
    assert parity.passed
    assert parity.default_session_argmax_agreement == 1.0
    # Float sums of 144 terms of size 1 in another order.
    assert parity.default_session_max_output_difference < 1e-5
    layers = [node for node in onnx.load(tmp_path / "model.onnx").graph.node if node.op_type in LAYERS]
    assert len(layers) == 4
    assert all(len(node.input) == 2 for node in layers)


def test_at_eight_bits_layers_keep_their_bias_for_integer_kernels(tmp_path):
    model = mct.quantize(Biased().eval(), torch.randn(32, 1, 8, 8))
    export(model, tmp_path / "model.onnx", example=torch.randn(2, 1, 8, 8), quiet=True)
    layers = [node for node in onnx.load(tmp_path / "model.onnx").graph.node if node.op_type in LAYERS]
    assert [len(node.input) for node in layers] == [3, 3, 3, 3]


LAYERS = ("Conv", "ConvTranspose", "Gemm")
