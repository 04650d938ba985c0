# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import onnx
import pytest
import torch
from export_networks import Small
from onnx import numpy_helper
from torch import nn

import model_compression_toolkit as mct
from mct_quantizers import (
    QuantizationMethod,
    QuantizationTarget,
    mark_quantizer,
    pytorch_load_quantized_model,
    pytorch_quantizers,
    pytorch_save_quantized_model,
)
from mct_quantizers.common.quant_info import QuantizerID
from mct_quantizers.pytorch.quantizers import BasePyTorchInferableQuantizer
from model_compression_toolkit.core.common.report import plan_table, plan_totals
from model_compression_toolkit.core.pytorch.data import batches_of
from model_compression_toolkit.core.pytorch.surgery import quantizer_of, wrapper_of
from model_compression_toolkit.exporter import export, load, read_plan, save_frozen
from model_compression_toolkit.exporter.common.parity import Compared
from model_compression_toolkit.exporter.pytorch.parity import compare_onnx
from model_compression_toolkit.trainable_infrastructure import (
    TrainableQuantizerActivationConfig,
    TrainableQuantizerWeightsConfig,
    TrainingMethod,
)
from model_compression_toolkit.trainable_infrastructure.pytorch.base_pytorch_quantizer import (
    BasePytorchTrainableQuantizer,
)

OWN = TrainingMethod.register("CUBE_ROOTS")
GRIDS = [QuantizationMethod.SYMMETRIC, QuantizationMethod.UNIFORM]


class Cubes(BasePyTorchInferableQuantizer):
    """Rounds cube roots: neither a grid of integers nor a table."""

    def __init__(self, width):
        super().__init__()
        self.register_buffer("width", torch.as_tensor(width, dtype=torch.float32))

    def forward(self, inputs):
        roots = inputs.abs().clamp(min=1e-12).pow(1 / 3)
        return inputs.sign() * (roots / self.width).round().mul(self.width).pow(3)


class Cosine(Cubes):
    """An activation quantizer of smooth steps, which knows whether it is trained."""

    def forward(self, inputs, training=True):
        if training:
            raise RuntimeError("in training")
        return inputs + torch.sin(inputs / self.width) * self.width * 0.9


@mark_quantizer(QuantizationTarget.Weights, GRIDS, OWN)
class CubesInTraining(BasePytorchTrainableQuantizer):
    frozen = Cubes

    def __init__(self, quantization_config: TrainableQuantizerWeightsConfig):
        super().__init__(quantization_config)

    def initialize_quantization(self, tensor_shape, name, layer):
        layer.register_parameter(f"{name}_width", nn.Parameter(torch.tensor([0.11])))
        self.add_quantizer_variable("width", layer.get_parameter(f"{name}_width"))
        return self.quantizer_parameters

    def __call__(self, inputs):
        return inputs + (Cubes(self.get_quantizer_variable("width").detach())(inputs) - inputs).detach()

    def convert2inferable(self):
        return self.frozen(self.get_quantizer_variable("width").detach().clone())


@mark_quantizer(QuantizationTarget.Activation, GRIDS, OWN)
class CubesOfActivations(CubesInTraining):
    def __init__(self, quantization_config: TrainableQuantizerActivationConfig):
        super().__init__(quantization_config)


def frozen(weights="LSQ", activations="LSQ", activation_class=Cubes, network=Small, **arguments):
    """`Small` after a step of training, with quantizers of its own where the method is `OWN`."""
    CubesOfActivations.frozen = activation_class
    config = mct.QuantizationConfig.from_bits("w4a8", **arguments)
    model = mct.prepare_qat(network().eval(), torch.randn(32, 16), config, mct.QATConfig(weights, activations))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    (model(torch.randn(8, 16)) ** 2).mean().backward()
    optimizer.step()
    return mct.finalize(model)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    torch.manual_seed(0)
    model, data = frozen(OWN, OWN), torch.randn(40, 16)
    path = tmp_path_factory.mktemp("own") / "model.onnx"
    return model, path, data, export(model, path, verify=data, quiet=True)


def test_a_weight_is_exported_as_the_values_of_the_model_bit_by_bit(own):
    model, path, _, report = own
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    for name in ("first", "last"):
        expected = wrapper_of(model, name).get_quantized_weights()["weight"].detach().numpy()
        values = stored[f"{name}.weight/values"]
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values.view(np.int32), expected.view(np.int32))
    # The float weights are not in the file.
    weights = [model.first.weight.detach().numpy(), model.last.weight.detach().numpy()]
    for array in stored.values():
        assert not any(array.shape == weight.shape and np.array_equal(array, weight) for weight in weights)
    assert report.file_size == path.stat().st_size


def test_the_file_has_standard_operators_only_and_runs_as_the_model(own):
    model, path, _, report = own
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", 21)]
    assert {node.domain for node in proto.graph.node} == {""}
    assert not proto.functions
    assert report.parity.passed, str(report.parity)
    assert report.parity.argmax_agreement == 1.0
    assert [(t.name, t.compared) for t in report.parity.tensors] == [
        (t.name, Compared.VALUES) for t in mct.plan_of(model).quantized()
    ]
    assert report.parity.not_compared == ()
    assert {t.name: t.num_elements for t in report.parity.tensors}["x.output"] == 40 * 16
    assert "2 weights: 0 of 640 values differ, by at most 0\n" in str(report.parity)


def test_notes_name_each_such_tensor_and_its_class(own):
    model, _, _, report = own
    notes = "\n".join(report.notes)
    for tensor in mct.plan_of(model).quantized():
        assert f"{tensor.name} is exported as" in notes
    assert "first.weight is exported as the float32 values of Cubes" in notes
    assert "x.output is exported as operations that compute the float32 values of Cubes" in notes
    assert notes in str(report).replace("  note: ", "")


def test_beside_built_in_quantizers(tmp_path):
    for weights, activations in ((OWN, "LSQ"), ("APOT", OWN)):
        model = frozen(weights, activations)
        report = export(model, tmp_path / "model.onnx", verify=torch.randn(20, 16), quiet=True)
        assert report.parity.passed, str(report.parity)
        kinds = {tensor.compared for tensor in report.parity.tensors}
        assert kinds == {Compared.VALUES, Compared.INTEGERS if activations == "LSQ" else Compared.INDICES}
        assert len([note for note in report.notes if "Cubes" in note]) == 2


def test_a_quantizer_that_asks_for_training_is_told_that_it_is_not(tmp_path):
    model = frozen("LSQ", OWN, Cosine, quantize_output=True)
    report = export(model, tmp_path / "model.onnx", verify=torch.randn(20, 16), quiet=True)
    assert report.parity.passed, str(report.parity)
    assert {t.name for t in report.parity.tensors if t.compared is Compared.VALUES} >= {"x.output", "last.output"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_models_of_other_dtypes_keep_their_values(tmp_path, dtype):
    model = frozen(OWN, OWN).to(dtype)
    report = export(model, tmp_path / "model.onnx", verify=torch.randn(8, 16, dtype=dtype), quiet=True)
    assert report.parity.passed, str(report.parity)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(report.path).graph.initializer}
    expected = model.first.get_quantized_weights()["weight"].detach()
    np.testing.assert_array_equal(stored["first.weight/values"], expected.float().numpy())


def test_export_does_not_change_the_model_or_its_mode(tmp_path):
    model = frozen(OWN, OWN).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    export(model, tmp_path / "model.onnx", verify=torch.randn(4, 16), quiet=True)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert isinstance(quantizer_of(model, mct.plan_of(model)["first.weight"]), Cubes)


def planted(own, tmp_path, change):
    model, path, data, _ = own
    proto = onnx.load(path)
    change(proto.graph, {tensor.name: tensor for tensor in proto.graph.initializer})
    onnx.save(proto, tmp_path / "changed.onnx")
    return compare_onnx(model, tmp_path / "changed.onnx", batches_of(data))


def test_one_wrong_value_of_a_weight_is_found_and_named(own, tmp_path):
    def change(graph, tensors):
        array = np.array(numpy_helper.to_array(tensors["last.weight/values"]))
        array[1, 3] = np.nextafter(array[1, 3], np.float32(9))
        tensors["last.weight/values"].CopyFrom(numpy_helper.from_array(array, "last.weight/values"))

    parity = planted(own, tmp_path, change)
    assert parity.first_divergence == "last.weight"
    (tensor,) = (tensor for tensor in parity.tensors if tensor.name == "last.weight")
    assert tensor.num_different == 1
    assert 0 < tensor.max_difference < 1e-6


@pytest.mark.parametrize("name", ["x.output", "relu.output"])
def test_a_wrong_activation_is_found_and_named(own, tmp_path, name):
    def change(graph, tensors):
        (node,) = (node for node in graph.node if f"{name}/values" in node.output)
        tensors = [numpy_helper.from_array(np.float32(1.01), "factor")]
        graph.initializer.extend(tensors)
        node.op_type = "Mul"
        node.input.append("factor")

    parity = planted(own, tmp_path, change)
    assert parity.first_divergence == name
    (tensor,) = (tensor for tensor in parity.tensors if tensor.name == name)
    assert tensor.max_difference > 0
    assert f"{tensor.max_difference:.3g}" in str(parity)
    assert json.loads(json.dumps(parity.to_dict()))["first_divergence"] == name


def test_an_input_that_is_off_by_rounding_is_no_divergence_and_one_off_by_more_is(tmp_path):
    model = frozen("LSQ", OWN)
    width = float(quantizer_of(model, mct.plan_of(model)["x.output"]).width)
    # Cube roots between two steps: the tie lies at the cube of the middle.
    data = torch.full((8, 16), (2.5 * width) ** 3) * torch.linspace(1.0 - 1e-6, 1.0 + 1e-6, 16)
    path = tmp_path / "model.onnx"
    export(model, path, example=data, quiet=True)
    for factor, passes in ((1.0 + 2e-6, True), (3.0, False)):
        proto = onnx.load(path)
        for node in proto.graph.node:
            for index, name in enumerate(node.input):
                if name == "x":
                    node.input[index] = "scaled"
        proto.graph.initializer.append(numpy_helper.from_array(np.float32(factor), "factor"))
        proto.graph.node.insert(0, onnx.helper.make_node("Mul", ["x", "factor"], ["scaled"]))
        onnx.save(proto, tmp_path / "changed.onnx")
        parity = compare_onnx(model, tmp_path / "changed.onnx", batches_of(data))
        (tensor,) = (tensor for tensor in parity.tensors if tensor.name == "x.output")
        assert tensor.num_different > 0
        assert tensor.diverges is not passes


class Exponential(Cubes):
    """What ONNX has no operator for."""

    def forward(self, inputs):
        return torch.linalg.matrix_exp(inputs.T @ inputs)[:1] + inputs * 0


class Undecided(Cubes):
    """Control flow that depends on the data."""

    def forward(self, inputs):
        return super().forward(inputs) if inputs.max() > 0 else inputs


@pytest.mark.parametrize(("cls", "reason"), [(Exponential, "matrix_exp"), (Undecided, "data-dependent")])
def test_a_quantizer_that_torch_cannot_export_is_named(tmp_path, cls, reason):
    model = frozen("LSQ", OWN, cls, rules=(mct.Rule(type="relu", quantize=False),))
    message = rf"x\.output cannot be exported to ONNX.*of class {cls.__name__}.*Reason: .*{reason}"
    with pytest.raises(ValueError, match=message):
        export(model, tmp_path / "model.onnx", example=torch.randn(4, 16))
    assert list(tmp_path.iterdir()) == []


class Custom(Cubes):
    """Calls a quantizer that is exported as an operator of this package."""

    def __init__(self, width):
        super().__init__(width)
        self.inner = pytorch_quantizers.ActivationPOTInferableQuantizer(8, [4.0], True)
        self.inner.enable_custom_impl()

    def forward(self, inputs):
        return self.inner(inputs)


def test_operators_that_are_not_standard_are_refused(tmp_path):
    model = frozen("LSQ", OWN, Custom)
    with pytest.raises(ValueError, match=r"x\.output cannot be exported to ONNX.*Custom.*ActivationPOTQuantizer"):
        export(model, tmp_path / "model.onnx", example=torch.randn(4, 16))


def test_safetensors_refuses_before_writing_and_says_what_to_do(own, tmp_path):
    model = own[0]
    path = tmp_path / "model.safetensors"
    for write in (lambda: save_frozen(model, path), lambda: export(model, path, quiet=True)):
        with pytest.raises(ValueError, match=r"x\.output is quantized by Cubes.*Export to \.onnx"):
            write()
    assert list(tmp_path.iterdir()) == []


@mark_quantizer(QuantizationTarget.Weights, [], QuantizerID.INFERABLE)
class Restorable(Cubes):
    def get_config(self):
        return {"width": self.width.tolist()}


def test_what_is_said_instead_of_safetensors_works(tmp_path, monkeypatch):
    monkeypatch.setattr(CubesInTraining, "frozen", Restorable)
    model, again = frozen(OWN), frozen(OWN)
    inputs = torch.randn(4, 16)
    with pytest.raises(ValueError, match="pytorch_save_quantized_model"):
        save_frozen(model, tmp_path / "model.safetensors")
    path = pytorch_save_quantized_model(model, tmp_path / "model.safetensors")
    assert not torch.equal(again(inputs), model(inputs))
    assert torch.equal(pytorch_load_quantized_model(path, again)(inputs), model(inputs))


def test_inspection_counts_float_values(own):
    plan, _ = read_plan(own[1])
    weight = plan["first.weight"]
    assert weight.params is None
    assert weight.num_bytes == 4 * 16 * 32
    assert plan_totals(plan)["weight_bytes"] == 4 * (16 * 32 + 32 * 4) == own[3].parity.weight_bytes
    table = plan_table(plan)
    rows = dict(zip(table.columns[0].cells, zip(*(column.cells for column in table.columns), strict=True), strict=True))
    assert "Cubes" in rows["first.weight"][4]


def test_a_plan_without_parameters_in_a_file_is_refused(tmp_path):
    model = frozen()
    path = save_frozen(model, tmp_path / "model.safetensors")
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    values = json.loads(content[8:header])
    plan = json.loads(values["__metadata__"]["quantization_plan"])
    plan["tensors"][0]["params"] = None
    values["__metadata__"]["quantization_plan"] = json.dumps(plan)
    changed = json.dumps(values).encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + content[header:])
    with pytest.raises(ValueError, match="has no parameters"):
        load(path, Small())
