# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of the interface's documents that are about PyTorch, the examples of 003 as printed; row ids in the names."""

import copy
import enum
import importlib
import pickle

import pytest

torch = pytest.importorskip("torch")

from document_examples import examples_forgotten, filled, new_module, printed, run_example  # noqa: E402
from torch import nn  # noqa: E402

import mct_quantizers as mctq  # noqa: E402
import model_compression_toolkit as mct  # noqa: E402
from mct_quantizers.common.quant_info import QuantizationMethod, QuantizerID  # noqa: E402
from model_compression_toolkit import quantizers_infrastructure as qi  # noqa: E402
from model_compression_toolkit.trainable_infrastructure import (  # noqa: E402
    BasePytorchTrainableQuantizer,
    TrainableQuantizerActivationConfig,
    TrainableQuantizerWeightsConfig,
    TrainingMethod,
    VariableGroup,
)
from model_compression_toolkit.trainable_infrastructure.common import training_method  # noqa: E402

torch.set_num_threads(1)
POT, SYMMETRIC, UNIFORM = (
    QuantizationMethod.POWER_OF_TWO,
    QuantizationMethod.SYMMETRIC,
    QuantizationMethod.UNIFORM,
)
NAME = "my_threshold"
FOUR_BITS = mct.TensorConfig(4, SYMMETRIC, "per_tensor")
CONFIG = mct.QuantizationConfig(weights=FOUR_BITS, activations=FOUR_BITS)
compiles = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
kinds = pytest.mark.parametrize("kind", ["weights", "activations"])


def custom_quantize(inputs, threshold):
    """Four bits, signed; gradients to the inputs and to the threshold."""
    scale = threshold / 8
    ratio = inputs / scale
    codes = (ratio + (ratio.round() - ratio).detach()).clamp(-8, 7)
    return (codes * scale).to(inputs.dtype)


LEARNED = "threshold=self.quantizer_parameters[NEW_PARAM].tolist()"
FILES = {
    "weights": ("pytorch_trainable_weights.py", f"num_bits=4, {LEARNED}, per_channel=False"),
    "activations": ("pytorch_trainable_activations.py", f"num_bits=4, {LEARNED}, signed=True"),
}
CLASSES = {"weights": "MyWeightsTrainingQuantizer", "activations": "MyActivationsTrainingQuantizer"}


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """Training methods and quantizer classes of a test are of no concern to the others."""
    monkeypatch.setattr(training_method, "_OWN_NAMES", set())
    with examples_forgotten(BasePytorchTrainableQuantizer, qi.BasePyTorchInferableQuantizer):
        yield
    torch.compiler.reset()


def example(kind, prologue="", epilogue=None):
    """The quantizer class of document 003, in which `...` is a name for its parameter and the last arguments."""
    TrainingMethod.register("MyTraining")
    file, arguments = FILES[kind]
    text = filled(printed(file), repr(NAME), epilogue or arguments)
    return run_example(prologue + text, {"custom_quantize": custom_quantize})[CLASSES[kind]]


def configured(kind, grid=SYMMETRIC):
    if kind == "weights":
        return TrainableQuantizerWeightsConfig(grid, 4, {"threshold": 1.0})
    return TrainableQuantizerActivationConfig(grid, 4, {"threshold": 1.0, "is_signed": True})


def carrier(kind, quantizer):
    """The wrapper or holder of a quantizer."""
    if kind == "weights":
        torch.manual_seed(0)
        return mctq.PytorchQuantizationWrapper(nn.Linear(4, 3), {"weight": quantizer})
    return mctq.PytorchActivationQuantizationHolder(quantizer)


def held(kind, layer):
    return layer.weights_quantizers["weight"] if kind == "weights" else layer.activation_holder_quantizer


class Network(nn.Module):
    """Layers in the model itself, and nested in two others."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 8), nn.ReLU()))
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.body(x))


def inputs(size=32):
    return torch.randn(size, 4, generator=torch.Generator().manual_seed(1))


def prepared_network():
    """A model whose every quantizer is one of the document's examples."""
    if "MyTraining" not in TrainingMethod:
        example("weights")
        example("activations")
    methods = mct.QATConfig(TrainingMethod.MyTraining, TrainingMethod.MyTraining)
    return mct.prepare_qat(Network(), inputs(), CONFIG, methods)


def loss_of(model):
    return (model(inputs()).float() - 1).square().mean()


def train(model, steps=4, optimizer=None):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(steps):
        loss = loss_of(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def thresholds(model):
    return {name: value for name, value in model.named_parameters() if name.endswith(NAME)}


# Document 003.


def test_row_003_1_every_import_of_the_examples_resolves():
    statements = [
        line for file, _ in FILES.values() for line in printed(file).splitlines() if line.startswith(("from", "import"))
    ]
    assert len(statements) == 8
    for statement in statements:
        names: dict = {}
        exec(statement, names)
        module = importlib.import_module(statement.split()[1])
        imported = statement.partition(" import ")[2].split(", ")
        assert all(names[name] is getattr(module, name) for name in imported)


@kinds
def test_row_003_2_the_method_of_the_example_resolves_without_an_edit(kind):
    with pytest.raises(AttributeError, match="MyTraining"):
        run_example(filled(printed(FILES[kind][0]), repr(NAME), ""), {})
    cls = example(kind)
    assert cls.identifier is not None
    assert cls.identifier == TrainingMethod.MyTraining == "MyTraining"
    assert cls.quantization_method == [SYMMETRIC]


@kinds
def test_row_003_3_register_parameter_creates_the_parameter(kind):
    layer = carrier(kind, example(kind)(configured(kind)))
    parameter = dict(layer.named_parameters())[NAME]
    assert isinstance(parameter, nn.Parameter)
    assert parameter.requires_grad
    assert (tuple(parameter.shape), parameter.dtype) == ((1,), torch.float32)
    # What every module does stays.
    value = nn.Parameter(torch.zeros(2))
    layer.register_parameter("other", value)
    layer.register_parameter("none", None)
    layer.register_parameter("fixed", requires_grad=False)
    assert layer.other is value
    assert layer.none is None
    assert not layer.fixed.requires_grad
    with pytest.raises(TypeError, match="`requires_grad` makes a parameter"):
        layer.register_parameter("both", nn.Parameter(torch.zeros(1)), requires_grad=True)
    assert "both" not in dict(layer.named_parameters())


@kinds
def test_row_003_4_the_parameter_stands_by_itself_in_the_dictionary(kind):
    layer = carrier(kind, example(kind)(configured(kind)))
    quantizer = held(kind, layer)
    assert quantizer.quantizer_parameters == {"new_param_name": layer.get_parameter(NAME)}
    assert quantizer.get_quantizer_variable("new_param_name") is layer.get_parameter(NAME)
    (variable,) = quantizer.get_trainable_variables(VariableGroup.QPARAMS)
    assert variable is layer.get_parameter(NAME)
    assert quantizer.get_trainable_variables(VariableGroup.WEIGHTS) == []
    layer.get_parameter(NAME).requires_grad_(False)
    assert quantizer.get_trainable_variables(VariableGroup.QPARAMS) == []


def test_row_003_5_the_examples_are_found_from_the_configuration():
    prepared = prepared_network()
    wrappers = [m for m in prepared.modules() if isinstance(m, mctq.PytorchQuantizationWrapper)]
    holders = [m for m in prepared.modules() if isinstance(m, mctq.PytorchActivationQuantizationHolder)]
    assert (len(wrappers), len(holders)) == (3, 3)
    assert {type(held("weights", wrapper)).__name__ for wrapper in wrappers} == {CLASSES["weights"]}
    assert {type(held("activations", holder)).__name__ for holder in holders} == {CLASSES["activations"]}
    # The configuration is that of the tensor.
    assert all(held("weights", wrapper).quantization_config.weights_n_bits == 4 for wrapper in wrappers)
    one = mct.prepare_qat(Network(), inputs(), CONFIG, mct.QATConfig("LSQ", TrainingMethod.MyTraining))
    names = {type(held("weights", one.get_submodule(name))).__name__ for name in ("head", "body.0", "body.2.0")}
    assert names == {"LSQWeightQATQuantizer"}
    assert len(thresholds(one)) == 3


@pytest.mark.parametrize("num_bits", [4, 8])
@pytest.mark.parametrize("grid", [SYMMETRIC, UNIFORM])
@pytest.mark.parametrize("method", ["STE", "LSQ"])
def test_row_003_6_activation_quantizers_of_the_infrastructure_train(method, grid, num_bits):
    from model_compression_toolkit.trainable_infrastructure.pytorch import activation_quantizers

    config = mct.QuantizationConfig(
        weights=mct.TensorConfig(num_bits=8), activations=mct.TensorConfig(num_bits=num_bits, method=grid)
    )
    prepared = mct.prepare_qat(Network(), inputs(), config, mct.QATConfig("STE", method))
    name = f"{method}{'Uniform' if grid is UNIFORM else 'Symmetric'}ActivationTrainableQuantizer"
    quantizers = [m for m in prepared.modules() if isinstance(m, getattr(activation_quantizers, name))]
    assert len(quantizers) == 3
    parameters = [parameter for quantizer in quantizers for parameter in quantizer.parameters()]
    assert len(parameters) == 3
    before = [parameter.detach().clone() for parameter in parameters]
    losses = train(prepared, steps=10)
    assert losses[-1] < 0.9 * losses[0]
    assert all(not torch.equal(old, new) for old, new in zip(before, parameters, strict=True))
    final = mct.finalize(prepared)
    torch.testing.assert_close(final(inputs()), prepared.eval()(inputs()), rtol=0, atol=1e-6)


@kinds
def test_row_003_8_the_new_parameter_trains_and_is_in_the_state(kind):
    layer = carrier(kind, example(kind)(configured(kind)))
    assert NAME in layer.state_dict()
    assert any(parameter is layer.get_parameter(NAME) for parameter in layer.parameters())
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    (layer(inputs()) - 0.3).square().mean().backward()
    gradient = layer.get_parameter(NAME).grad.clone()
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).all()
    optimizer.step()
    torch.testing.assert_close(layer.get_parameter(NAME).detach(), 1 - 0.1 * gradient)
    other = carrier(kind, example(kind)(configured(kind)))
    assert not torch.equal(other(inputs()), layer(inputs()))
    other.load_state_dict(layer.state_dict(), strict=True)
    assert torch.equal(other(inputs()), layer(inputs()))


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_row_003_8_training_of_a_whole_model_resumes_exactly(kind, tmp_path):
    def fresh():
        model = prepared_network()
        arguments = {"momentum": 0.9} if kind == "SGD" else {}
        return model, getattr(torch.optim, kind)(model.parameters(), lr=1e-2, **arguments)

    model, optimizer = fresh()
    whole = train(model, 8, optimizer)
    assert len(thresholds(model)) == 6
    assert all((value != 1).all() for value in thresholds(model).values())
    first, first_optimizer = fresh()
    head = train(first, 4, first_optimizer)
    torch.save({"model": first.state_dict(), "optimizer": first_optimizer.state_dict()}, tmp_path / "state.pt")
    second, second_optimizer = fresh()
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    second.load_state_dict(saved["model"], strict=True)
    second_optimizer.load_state_dict(saved["optimizer"])
    tail = train(second, 4, second_optimizer)
    assert torch.equal(torch.cat([head, tail]), whole)
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("is_in_place", [False, True])
def test_row_003_9_finalize_gives_inferable_quantizers_with_what_was_learned(is_in_place):
    prepared = prepared_network()
    train(prepared)
    learned = {name.rpartition(".")[0]: value.item() for name, value in thresholds(prepared).items()}
    expected = prepared.eval()(inputs()).detach()
    if is_in_place:
        final = mct.qat.pytorch_quantization_aware_training_finalize_experimental(prepared)
        assert final is prepared
    else:
        final = mct.finalize(prepared)
    assert not any(isinstance(module, BasePytorchTrainableQuantizer) for module in final.modules())
    assert len(learned) == 6
    for name, threshold in learned.items():
        layer = final.get_submodule(name)
        is_weight = isinstance(layer, mctq.PytorchQuantizationWrapper)
        quantizer = held("weights" if is_weight else "activations", layer)
        target = "Weights" if is_weight else "Activation"
        assert type(quantizer) is getattr(mctq.pytorch_quantizers, f"{target}SymmetricInferableQuantizer")
        assert quantizer.get_config()["threshold"] == [threshold]
        assert quantizer.get_config()["num_bits"] == 4
    torch.testing.assert_close(final(inputs()), expected, rtol=0, atol=1e-6)


@kinds
def test_row_003_9_wrapper_and_holder_convert_by_themselves(kind):
    layer = carrier(kind, example(kind)(configured(kind)))
    with torch.no_grad():
        layer.get_parameter(NAME).fill_(0.3)
    expected = layer.eval()(inputs())
    layer.convert_to_inferable_quantizers()
    assert held(kind, layer).get_config()["threshold"] == [pytest.approx(0.3)]
    torch.testing.assert_close(layer(inputs()), expected, rtol=0, atol=1e-6)


def test_row_003_9_nothing_of_training_is_left_after_finalize():
    prepared = prepared_network()
    train(prepared)
    final = mct.finalize(prepared)
    assert {name.rpartition(".")[2] for name, _ in final.named_parameters()} == {"weight", "bias"}
    assert not [name for name in final.state_dict() if name.endswith(NAME)]


@pytest.mark.parametrize("shape", [(3, 4), (2, 5, 3, 4)])
def test_row_003_10_the_channel_axis_may_be_counted_from_the_end(shape):
    arguments = {"num_bits": 4, "threshold": [0.5, 1.0, 2.0, 4.0], "per_channel": True}
    quantizers = mctq.pytorch_quantizers
    x = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    last = quantizers.WeightsSymmetricInferableQuantizer(**arguments, channel_axis=-1)
    counted = quantizers.WeightsSymmetricInferableQuantizer(**arguments, channel_axis=len(shape) - 1)
    assert torch.equal(last(x), counted(x))
    for channel, threshold in enumerate(arguments["threshold"]):
        one = quantizers.WeightsSymmetricInferableQuantizer(4, [threshold], False)
        assert torch.equal(last(x)[..., channel], one(x[..., channel]))


def test_row_003_10_a_quantizer_may_convert_to_the_last_axis():
    arguments = (
        "num_bits=4, threshold=self.quantizer_parameters[NEW_PARAM].tolist() * 4, per_channel=True, channel_axis=-1"
    )
    layer = carrier("weights", example("weights", epilogue=arguments)(configured("weights")))
    expected = layer.eval()(inputs())
    layer.convert_to_inferable_quantizers()
    torch.testing.assert_close(layer(inputs()), expected, rtol=0, atol=1e-6)


@compiles
def test_row_003_11_a_model_in_training_compiles_to_what_eager_computes():
    results = []
    for is_compiled in (False, True):
        prepared = prepared_network()
        call = torch.compile(prepared, fullgraph=True, backend="aot_eager") if is_compiled else prepared
        loss = loss_of(call)
        loss.backward()
        gradients = {name: parameter.grad for name, parameter in prepared.named_parameters()}
        results.append({"loss": loss.detach(), **gradients})
    assert results[0].keys() == results[1].keys()
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-6, atol=1e-7)
        assert name.endswith("bias") or (value != 0).any()


@compiles
def test_row_003_11_a_compiled_model_follows_what_is_learned():
    prepared = prepared_network()
    compiled = torch.compile(prepared, fullgraph=True, backend="aot_eager")
    before = compiled(inputs()).detach()
    train(compiled)
    assert not torch.equal(compiled(inputs()), before)
    torch.testing.assert_close(compiled(inputs()), prepared(inputs()), rtol=0, atol=1e-6)


@compiles
def test_row_003_11_a_finalized_model_exports_and_compiles():
    prepared = prepared_network()
    train(prepared)
    final = mct.finalize(prepared)
    with torch.no_grad():
        expected = final(inputs())
        assert torch.equal(torch.export.export(final, (inputs(),)).module()(inputs()), expected)
        assert torch.equal(torch.compile(final, fullgraph=True, backend="aot_eager")(inputs()), expected)


def test_row_003_11_a_finalized_model_goes_into_a_file_that_computes_the_same(tmp_path):
    prepared = prepared_network()
    train(prepared)
    final = mct.finalize(prepared)
    report = mct.export(final, tmp_path / "model.safetensors", verify=inputs(), quiet=True)
    assert report.parity.passed
    assert torch.equal(mct.load(report.path, Network())(inputs()), final(inputs()))


@compiles
def test_row_003_11_a_finalized_model_goes_into_onnx(tmp_path):
    pytest.importorskip("onnxruntime")
    prepared = prepared_network()
    train(prepared)
    report = mct.export(mct.finalize(prepared), tmp_path / "model.onnx", verify=inputs(), quiet=True)
    assert report.parity.passed


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_row_003_11_a_copy_trains_apart(copied):
    prepared = prepared_network()
    train(prepared, 1)
    twin, kept = copied(prepared), {name: value.clone() for name, value in prepared.state_dict().items()}
    losses = train(prepared)
    for name, value in twin.state_dict().items():
        assert torch.equal(value, kept[name]), name
    assert all(not torch.equal(value, kept[name]) for name, value in thresholds(prepared).items())
    # The quantizers of the copy read the parameters of the copy.
    assert torch.equal(train(twin), losses)
    assert torch.equal(twin.eval()(inputs()), prepared.eval()(inputs()))
    assert torch.equal(mct.finalize(twin)(inputs()), mct.finalize(prepared)(inputs()))


def test_row_003_11_bfloat16_keeps_dtypes():
    prepared = prepared_network()
    seen = []
    for module in prepared.modules():
        if isinstance(module, (mctq.PytorchQuantizationWrapper, mctq.PytorchActivationQuantizationHolder)):
            module.register_forward_hook(lambda layer, given, result: seen.append((given[0].dtype, result.dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        loss_of(prepared).backward()
    assert {result for given, result in seen if given == torch.bfloat16} == {torch.bfloat16}
    for name, parameter in prepared.named_parameters():
        assert parameter.grad.dtype == torch.float32, name
        assert torch.isfinite(parameter.grad).all(), name
    half = prepared_network().to(torch.bfloat16)
    assert {parameter.dtype for parameter in thresholds(half).values()} == {torch.bfloat16}
    output = half(inputs().to(torch.bfloat16))
    assert output.dtype == torch.bfloat16
    final = mct.finalize(half)
    assert final(inputs().to(torch.bfloat16)).dtype == torch.bfloat16
    torch.testing.assert_close(
        final(inputs().to(torch.bfloat16)), half.eval()(inputs().to(torch.bfloat16)), rtol=0.02, atol=0.02
    )


@kinds
def test_string_annotations_are_understood(kind):
    cls = example(kind, prologue="from __future__ import annotations\n")
    assert isinstance(cls.__init__.__annotations__["quantization_config"], str)
    layer = carrier(kind, cls(configured(kind)))
    (layer(inputs()) - 0.3).square().mean().backward()
    assert layer.get_parameter(NAME).grad.isfinite().all()
    other = "activations" if kind == "weights" else "weights"
    with pytest.raises(TypeError, match=f"{CLASSES[kind]} quantizes"):
        cls(configured(other))
    with pytest.raises(ValueError, match=r"serves \['SYMMETRIC'\]"):
        cls(configured(kind, POT))


# Document 002 on PyTorch: the dictionaries, and `inputs.round()` as printed.


class Rounds(qi.BaseInferableQuantizer):
    """A quantizer of the user's own for inference."""

    def __call__(self, inputs):
        return inputs.round()


def rounding(kind, inferable=Rounds):
    """The quantizer class of document 002 with PyTorch's base under the name that the example uses."""
    names = {
        "BaseKerasTrainableQuantizer": qi.BasePytorchTrainableQuantizer,
        "NodeWeightsQuantizationConfig": qi.NodeWeightsQuantizationConfig,
        "NodeActivationQuantizationConfig": qi.NodeActivationQuantizationConfig,
        "MyWeightsInferableQuantizer": inferable,
        "MyActivationsInferableQuantizer": inferable,
    }
    return run_example(printed(f"rounding_{kind}.py"), names)[CLASSES[kind]]


@pytest.fixture
def dictionaries():
    """The module of the dictionaries, which are afterwards what they were before."""
    module = importlib.import_module("model_compression_toolkit.qat.pytorch.quantizer.quantization_dispatcher_builder")
    tables = module.METHOD2WEIGHTQUANTIZER, module.METHOD2ACTQUANTIZER
    kept = [{method: dict(classes) for method, classes in table.items()} for table in tables]
    yield module
    for table, former in zip(tables, kept, strict=True):
        table.clear()
        table.update(former)


def dispatch(module, classes, method):
    """The two dictionaries as document 002 prints them, `...` filled with what they hold already."""
    for kind, name in (("weight", "METHOD2WEIGHTQUANTIZER"), ("activation", "METHOD2ACTQUANTIZER")):
        text = filled(printed(f"{kind}_dispatch.txt"), f"**{name}")
        names = {"qi": qi, "TrainingMethod": method, name: getattr(module, name), **classes}
        getattr(module, name).update(run_example(text, names)[name])


def large_network():
    """Weights that rounding to integers does not make zero."""
    network = Network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(6)
    return network


@pytest.mark.parametrize("is_enumeration", [False, True])
def test_row_002_7_the_dictionaries_are_honoured(dictionaries, is_enumeration):
    if is_enumeration:
        method = run_example(printed("training_method.txt"), {"Enum": enum.Enum})["TrainingMethod"]
    else:
        method = TrainingMethod
        TrainingMethod.register("MyTrainingMethod")
    classes = {CLASSES[kind]: rounding(kind) for kind in CLASSES}
    methods = mct.QATConfig(method.MyTrainingMethod, method.MyTrainingMethod)
    with pytest.raises(ValueError, match="Expected one trainable quantizer"):
        mct.prepare_qat(large_network(), inputs(), CONFIG, methods)
    dispatch(dictionaries, classes, method)
    assert dictionaries.METHOD2WEIGHTQUANTIZER[TrainingMethod.STE]
    prepared = mct.prepare_qat(large_network(), inputs(), CONFIG, methods)
    used = [type(module) for module in prepared.modules() if isinstance(module, BasePytorchTrainableQuantizer)]
    assert sorted(cls.__name__ for cls in used) == sorted(3 * list(classes))
    assert set(used) == set(classes.values())


def test_row_002_7_the_dictionaries_are_the_same_on_every_path_and_come_before_the_built_in_classes(dictionaries):
    builder = importlib.import_module("model_compression_toolkit.qat.pytorch.quantizer.quantization_builder")
    assert builder.METHOD2WEIGHTQUANTIZER is dictionaries.METHOD2WEIGHTQUANTIZER
    assert builder.METHOD2ACTQUANTIZER is dictionaries.METHOD2ACTQUANTIZER
    assert dictionaries.METHOD2WEIGHTQUANTIZER["STE"][SYMMETRIC].__name__ == "STEWeightQATQuantizer"
    cls = rounding("weights")
    dictionaries.METHOD2WEIGHTQUANTIZER[TrainingMethod.STE][SYMMETRIC] = cls
    prepared = mct.prepare_qat(large_network(), inputs(), CONFIG, mct.QATConfig("STE", "STE"))
    names = {type(m).__name__ for m in prepared.modules() if isinstance(m, BasePytorchTrainableQuantizer)}
    assert names == {cls.__name__, "STESymmetricActivationTrainableQuantizer"}


@kinds
def test_row_002_8_the_example_rounds_as_printed(kind):
    layer = carrier(kind, rounding(kind)(configured(kind)))
    x = 3 * inputs()
    if kind == "weights":
        with torch.no_grad():
            layer.weight.mul_(5)
        torch.testing.assert_close(layer.get_quantized_weights()["weight"], layer.weight.round(), rtol=0, atol=0)
        torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight.round(), layer.layer.bias))
    else:
        assert torch.equal(layer(x), x.round())


def trained_with_own_inferables(dictionaries, inferable=Rounds):
    """A model in training with the quantizers of document 002, and the same finalized."""
    TrainingMethod.register("MyTrainingMethod")
    dispatch(dictionaries, {CLASSES[kind]: rounding(kind, inferable) for kind in CLASSES}, TrainingMethod)
    methods = mct.QATConfig("MyTrainingMethod", "MyTrainingMethod")
    prepared = mct.prepare_qat(large_network(), inputs(), CONFIG, methods)
    return prepared, mct.finalize(prepared)


def test_row_002_9_the_users_own_inferable_quantizers_survive(dictionaries, tmp_path):
    prepared, final = trained_with_own_inferables(dictionaries)
    wrapper, holder = final.get_submodule("head"), final.get_submodule("x_activation_holder_quantizer")
    assert isinstance(wrapper.weights_quantizers["weight"], Rounds)
    assert isinstance(holder.activation_holder_quantizer, Rounds)
    expected = prepared.eval()(inputs())
    assert torch.equal(final(inputs()), expected)
    torch.save(final.state_dict(), tmp_path / "state.pt")
    other = copy.deepcopy(final)
    for tensor in other.state_dict().values():
        tensor.add_(1)
    assert not torch.equal(other(inputs()), expected)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True), strict=True)
    assert torch.equal(other(inputs()), expected)
    # What torch itself writes knows nothing of quantizers.
    torch.export.save(torch.export.export(final, (inputs(),)), tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    assert torch.equal(loaded(inputs()), expected)


@compiles
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning")
def test_row_002_9_the_users_own_inferable_quantizers_go_into_onnx_by_torch(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    layer = carrier("weights", rounding("weights")(configured("weights")))
    with torch.no_grad():
        layer.weight.mul_(5)
    model = nn.Sequential(carrier("activations", rounding("activations")(configured("activations"))), layer)
    for module in model:
        module.convert_to_inferable_quantizers()
    model.eval()
    torch.onnx.export(model, (3 * inputs(),), tmp_path / "model.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (output,) = session.run(None, {session.get_inputs()[0].name: (3 * inputs()).numpy()})
    torch.testing.assert_close(torch.from_numpy(output), model(3 * inputs()).detach())


@compiles
def test_row_002_9_a_model_with_the_users_own_inferable_quantizers_goes_into_onnx(dictionaries, tmp_path):
    pytest.importorskip("onnxruntime")
    _, final = trained_with_own_inferables(dictionaries)
    report = mct.export(final, tmp_path / "model.onnx", verify=inputs(), quiet=True)
    assert report.parity.passed
    assert sum("Rounds, a quantizer of its own without integers" in note for note in report.notes) == 6


def test_row_002_9_a_file_of_packed_integers_says_which_quantizers_have_none(dictionaries, tmp_path):
    _, final = trained_with_own_inferables(dictionaries)
    with pytest.raises(ValueError, match="quantized by Rounds, a quantizer of its own without integers"):
        mct.export(final, tmp_path / "model.safetensors", quiet=True)
    assert not list(tmp_path.iterdir())


def test_row_002_9_the_runtime_saves_the_users_own_inferable_quantizers(dictionaries, tmp_path):
    @qi.mark_quantizer(identifier=QuantizerID.INFERABLE)
    class SavedRounds(qi.BasePyTorchInferableQuantizer):
        __module__ = new_module()

        def forward(self, inputs):
            return inputs.round()

        def get_config(self):
            return {}

    prepared, final = trained_with_own_inferables(dictionaries, SavedRounds)
    path = mctq.pytorch_save_quantized_model(final, tmp_path / "model.safetensors")
    # The architecture has the same holders; its quantizers and weights are others.
    loaded = mctq.pytorch_load_quantized_model(path, mct.quantize(Network(), inputs(), CONFIG))
    assert isinstance(loaded.get_submodule("head").weights_quantizers["weight"], SavedRounds)
    assert torch.equal(loaded(inputs()), final(inputs()))
    assert torch.equal(final(inputs()), prepared.eval()(inputs()))


def test_row_002_10_the_library_offers_rounding_with_a_gradient():
    from model_compression_toolkit.trainable_infrastructure.pytorch.quantizer_utils import ste_round

    x = (3 * inputs()).requires_grad_()
    weights = inputs().roll(1)
    (x.round() * weights).sum().backward()
    assert not x.grad.any()
    x.grad = None
    assert torch.equal(ste_round(x), x.round())
    (ste_round(x) * weights).sum().backward()
    assert torch.equal(x.grad, weights)
