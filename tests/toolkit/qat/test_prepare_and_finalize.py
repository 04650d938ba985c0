# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Quantization-aware training: prepare, train with any loop, finalize."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import toolkit_models
import torch
from toolkit_models import ZOO, built, flat, images, indices
from torch import nn

import model_compression_toolkit as mct
from mct_quantizers.pytorch.quantizers import BasePyTorchInferableQuantizer
from model_compression_toolkit import qat
from model_compression_toolkit.core.pytorch.surgery import quantizer_of
from model_compression_toolkit.trainable_infrastructure.pytorch.method_quantizer import PytorchMethodQuantizer

compiles = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
LSQ, STE = mct.QATConfig("LSQ", "LSQ"), mct.QATConfig("STE", "STE")
METHODS = {"LSQ": LSQ, "STE": STE, "mixed": mct.QATConfig("LSQ", "STE")}


def prepare(name="sequential", bits="w4a4", method="LSQ", **arguments):
    model, inputs = built(name)
    config = mct.QuantizationConfig.from_bits(bits, **arguments)
    return mct.prepare_qat(model, [inputs], config, METHODS[method]), model, inputs


def loss_of(model, inputs):
    return (flat_live(model(*[item.clone() for item in inputs])) - 0.5).square().mean()


def flat_live(outputs):
    return torch.cat([item.flatten() for item in torch.utils._pytree.tree_leaves(outputs)])


def train(model, inputs, steps=5, optimizer=None, lr=1e-2):
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=lr)
    losses = []
    model.train()
    for _ in range(steps):
        loss = loss_of(model, inputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


@pytest.mark.parametrize("name", ZOO)
def test_prepared_models_train_and_finalize(name):
    prepared, _, inputs = prepare(name)
    torch.manual_seed(0)
    losses = train(prepared, inputs, steps=12)
    assert losses[-1] < losses[0]
    assert torch.isfinite(losses).all()
    for parameter_name, parameter in prepared.named_parameters():
        assert parameter.grad is not None or not parameter.requires_grad, parameter_name
    trained = {key: tensor.clone() for key, tensor in prepared.state_dict().items()}
    final = mct.finalize(prepared)
    assert not any(isinstance(module, PytorchMethodQuantizer) for module in final.modules())
    # The trained model is left as it was.
    assert any(isinstance(module, PytorchMethodQuantizer) for module in prepared.modules())
    assert all(torch.equal(trained[key], tensor) for key, tensor in prepared.state_dict().items())
    expected, received = flat(prepared.eval()(*inputs)), flat(final(*inputs))
    if not mct.plan_of(prepared).live_batch_norms:
        assert torch.equal(received, expected)
    # Folding multiplies in another order; a value on a tie may then move by a step of some activation.
    assert (received - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("name", ["sequential", "words"])
def test_every_module_of_a_finalized_model_is_in_evaluation(name):
    prepared, _, _ = prepare(name)
    assert not any(module.training for module in mct.finalize(prepared).modules())
    assert prepared.training


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "grid", [mct.QuantizationMethod.POWER_OF_TWO, mct.QuantizationMethod.SYMMETRIC, mct.QuantizationMethod.UNIFORM]
)
@pytest.mark.parametrize("granularity", mct.Granularity)
def test_finalize_computes_what_was_trained_bit_for_bit(method, grid, granularity):
    prepared, _, inputs = prepare(
        "residual",
        method=method,
        weights=mct.TensorConfig(method=grid, granularity=granularity),
        activations=mct.TensorConfig(method=grid),
        batch_norm="fold",
    )
    train(prepared, inputs, steps=6, lr=3e-2)
    final = mct.finalize(prepared)
    assert torch.equal(flat(final(*inputs)), flat(prepared.eval()(*inputs)))
    plan = mct.plan_of(final)
    for tensor in plan.quantized():
        quantizer = quantizer_of(final, tensor)
        assert isinstance(quantizer, BasePyTorchInferableQuantizer)
        assert quantizer.quantization_method == [grid]
        assert quantizer.quantization_target is tensor.site.target
        assert quantizer.params == tensor.params


@pytest.mark.parametrize("name", ["sequential", "projection", "words"])
def test_before_training_a_prepared_model_computes_what_the_quantized_one_does(name):
    prepared, model, inputs = prepare(name, method="STE", batch_norm="fold")
    quantized = mct.quantize(model, [inputs], mct.QuantizationConfig.from_bits("w4a4"))
    assert torch.equal(flat(prepared.eval()(*inputs)), flat(quantized(*inputs)))
    prepared.train()
    train(prepared, inputs, steps=3, optimizer=torch.optim.SGD(prepared.parameters(), lr=0.0))
    assert torch.equal(flat(mct.finalize(prepared)(*inputs)), flat(quantized(*inputs)))


def test_lsq_is_the_default_of_prepare_and_ste_that_of_the_interface():
    model, inputs = built("sequential")
    names = {m.method.name for m in mct.prepare_qat(model, [inputs]).modules() if isinstance(m, PytorchMethodQuantizer)}
    assert names == {"LSQ"}
    prepared, _ = qat.pytorch_quantization_aware_training_init_experimental(model, lambda: iter([list(inputs)]))
    assert {m.method.name for m in prepared.modules() if isinstance(m, PytorchMethodQuantizer)} == {"STE"}


def test_weights_and_activations_can_have_different_methods():
    prepared, _, _ = prepare(method="mixed")
    for tensor in mct.plan_of(prepared).quantized():
        assert quantizer_of(prepared, tensor).method.name == ("LSQ" if tensor.is_weight else "STE")


ENTRANCES = [
    # Who is asked, what for, and what trains weights and activations.
    (mct.prepare_qat, None, ("LSQ", "LSQ")),
    (mct.prepare_qat, mct.QATConfig(), ("LSQ", "LSQ")),
    (mct.prepare_qat, mct.QATConfig(weight_training_method="STE"), ("STE", "LSQ")),
    (mct.prepare_qat, mct.QATConfig(activation_training_method="PACT"), ("LSQ", "PACT")),
    (qat.pytorch_quantization_aware_training_init_experimental, None, ("STE", "STE")),
    (qat.pytorch_quantization_aware_training_init_experimental, mct.QATConfig(), ("STE", "STE")),
    (qat.pytorch_quantization_aware_training_init_experimental, mct.QATConfig("LSQ"), ("LSQ", "STE")),
]


@pytest.mark.parametrize(("entrance", "qat_config", "expected"), ENTRANCES)
def test_each_entrance_has_one_default_and_the_plan_names_the_methods(entrance, qat_config, expected):
    model, inputs = built("sequential")
    prepared = entrance(model, lambda: iter([inputs]), qat_config=qat_config)
    prepared = prepared[0] if isinstance(prepared, tuple) else prepared
    for candidate in (prepared, copy.deepcopy(prepared), mct.finalize(prepared)):
        for tensor in mct.plan_of(candidate).quantized():
            assert tensor.training_method == expected[0 if tensor.is_weight else 1], tensor.name
    for tensor in mct.plan_of(prepared).quantized():
        assert quantizer_of(prepared, tensor).method.name == tensor.training_method
    plan = mct.plan_of(prepared)
    assert mct.QuantizationPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert all(name in str(plan) for name in ("trained by", *expected))


@pytest.mark.parametrize("qat_config", ["LSQ", {"weight_training_method": "LSQ"}, 1, {}, ""])
def test_training_methods_of_another_type_are_refused(qat_config):
    model, inputs = built("sequential")
    with pytest.raises(TypeError, match="`qat_config` must be a QATConfig"):
        mct.prepare_qat(model, [inputs], None, qat_config)


def test_the_prepared_model_is_in_training_whatever_the_callers_mode():
    for mode in (True, False):
        model, inputs = built("sequential")
        prepared = mct.prepare_qat(model.train(mode), [inputs])
        assert all(module.training for module in prepared.modules())


def test_parameters_that_the_caller_froze_stay_frozen():
    model, inputs = built("residual")
    model.conv1.weight.requires_grad_(False)
    prepared = mct.prepare_qat(model, [inputs])
    assert not prepared.get_submodule("conv1").weight.requires_grad
    before = prepared.get_submodule("conv1").weight.detach().clone()
    train(prepared, inputs)
    assert torch.equal(prepared.get_submodule("conv1").weight, before)
    assert prepared.get_submodule("conv2").weight.requires_grad


def test_holders_are_children_named_after_the_node():
    prepared, _, _ = prepare("reused")
    holders = [name for name, _ in prepared.named_children() if name.endswith("_activation_holder_quantizer")]
    assert holders == [f"{node}_activation_holder_quantizer" for node in ("x", "act", "act_1", "act_2")]
    # One number of state for each.
    for name in holders:
        keys = set(prepared.get_submodule(name).state_dict())
        names = ("scale", "zero_point", "quantization_grid")
        assert keys == {f"activation_holder_quantizer.{name}" for name in names}


def test_tied_weights_stay_tied_in_training():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
            self.head.weight = self.words.weight

        def forward(self, x):
            return self.head(self.words(x))

    torch.manual_seed(0)
    model, x = Tied(), indices(16, 5)
    prepared = mct.prepare_qat(model, x, mct.QuantizationConfig.from_bits("w4a4"))
    words, head = prepared.get_submodule("words"), prepared.get_submodule("head")
    assert words.weight is head.weight
    assert words.weight is not model.words.weight
    before = words.weight.detach().clone()
    train(prepared, (x,))
    assert words.weight is head.weight
    assert not torch.equal(words.weight, before)
    final = mct.finalize(prepared)
    assert torch.equal(final(x), prepared.eval()(x))
    assert final.get_submodule("words").weight is final.get_submodule("head").weight


# Twice is refused.


def test_finalizing_what_is_not_in_training_is_refused():
    prepared, model, inputs = prepare()
    final = mct.finalize(prepared)
    for call in (mct.finalize, qat.pytorch_quantization_aware_training_finalize_experimental):
        with pytest.raises(ValueError, match="finalized already"):
            call(final)
        with pytest.raises(ValueError, match="finalized already"):
            call(mct.quantize(model, [inputs]))
        with pytest.raises(ValueError, match="`model` must be a model that"):
            call(model)
    assert torch.equal(flat(final(*inputs)), flat(mct.finalize(prepared)(*inputs)))


def test_a_finalized_model_cannot_be_prepared_again():
    prepared, _, inputs = prepare()
    with pytest.raises(ValueError, match="quantized already"):
        mct.prepare_qat(mct.finalize(prepared), [inputs])


# The names of the interface.


def test_the_interface_prepares_and_finalizes_in_place():
    model, inputs = built("sequential")
    prepared, information = qat.pytorch_quantization_aware_training_init_experimental(
        model,
        lambda: iter([list(inputs)]),
        core_config=mct.QuantizationConfig.from_bits("w4a8", first_last_bits=8),
        qat_config=mct.QATConfig(weight_training_method=qat.TrainingMethod.LSQ),
    )
    assert information.mixed_precision_cfg == [8, 4, 8]
    assert information.quantization_plan == mct.plan_of(prepared)
    train(prepared, inputs)
    expected = mct.finalize(prepared)
    result = qat.pytorch_quantization_aware_training_finalize_experimental(prepared)
    assert result is prepared
    assert not any(isinstance(module, PytorchMethodQuantizer) for module in result.modules())
    assert torch.equal(flat(result(*inputs)), flat(expected(*inputs)))
    # No state of training is left behind.
    assert set(result.state_dict()) == set(expected.state_dict())


@pytest.mark.parametrize("name", ["target_resource_utilization", "target_platform_capabilities"])
def test_the_interface_refuses_what_is_not_supported(name):
    model, inputs = built("sequential")
    with pytest.raises(NotImplementedError, match=f"`{name}` is not supported yet"):
        qat.pytorch_quantization_aware_training_init_experimental(model, lambda: iter([list(inputs)]), **{name: {}})


# State.


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("name", ["sequential", "words"])
def test_resuming_is_exact(kind, name, tmp_path):
    def fresh():
        prepared, _, inputs = prepare(name)
        arguments = {"momentum": 0.9} if kind == "SGD" else {}
        return prepared, getattr(torch.optim, kind)(prepared.parameters(), lr=1e-2, **arguments), inputs

    model, optimizer, inputs = fresh()
    whole = train(model, inputs, 8, optimizer)
    first, first_optimizer, _ = fresh()
    head = train(first, inputs, 4, first_optimizer)
    torch.save({"model": first.state_dict(), "optimizer": first_optimizer.state_dict()}, tmp_path / "state.pt")
    second, second_optimizer, _ = fresh()
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    second.load_state_dict(saved["model"], strict=True)
    second_optimizer.load_state_dict(saved["optimizer"])
    tail = train(second, inputs, 4, second_optimizer)
    assert torch.equal(torch.cat([head, tail]), whole)
    for a, b in zip(model.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


LOADER = """
import json, sys
sys.path.insert(0, sys.argv[1])
import torch
from toolkit_models import built, flat
import model_compression_toolkit as mct
torch.set_num_threads(1)
model, inputs = built("projection")
config = mct.QuantizationConfig.from_bits("w4a4")
# Other calibration data: the grids come from the file.
prepared = mct.prepare_qat(model, [tuple(0.3 * item for item in inputs)], config)
prepared.load_state_dict(torch.load(sys.argv[2] + "/prepared.pt", weights_only=True), strict=True)
final = mct.finalize(prepared)
final.load_state_dict(torch.load(sys.argv[2] + "/final.pt", weights_only=True), strict=True)
outputs = [flat(prepared.eval()(*inputs)), flat(final(*inputs))]
torch.save(outputs, sys.argv[2] + "/outputs.pt")
print(json.dumps([list(tensor.shape) for tensor in prepared.state_dict().values()]))
"""


def test_state_loads_strictly_into_a_freshly_prepared_model_of_a_new_process(tmp_path):
    prepared, _, inputs = prepare("projection")
    shapes = [list(tensor.shape) for tensor in prepared.state_dict().values()]
    train(prepared, inputs)
    final = mct.finalize(prepared)
    torch.save(prepared.state_dict(), tmp_path / "prepared.pt")
    torch.save(final.state_dict(), tmp_path / "final.pt")
    folder = str(Path(toolkit_models.__file__).parent)
    process = subprocess.run(  # our own code
        [sys.executable, "-c", LOADER, folder, str(tmp_path)], capture_output=True, text=True, check=False, timeout=120
    )
    assert process.returncode == 0, process.stderr
    expected = [flat(prepared.eval()(*inputs)), flat(final(*inputs))]
    received = torch.load(tmp_path / "outputs.pt", weights_only=True)
    assert all(torch.equal(a, b) for a, b in zip(expected, received, strict=True))
    assert json.loads(process.stdout) == shapes
    assert not any(shape == [] for key, shape in zip(prepared.state_dict(), shapes, strict=True) if "quantizer" in key)


def test_an_average_of_a_trained_model_finalizes():
    prepared, _, inputs = prepare()
    average = torch.optim.swa_utils.AveragedModel(prepared, use_buffers=True)
    for _ in range(3):
        train(prepared, inputs, steps=2)
        average.update_parameters(prepared)
    final = mct.finalize(average.module)
    expected = flat(average.module.eval()(*inputs))
    assert (flat(final(*inputs)) - expected).norm() < 0.02 * expected.norm()
    assert mct.plan_of(average) == mct.plan_of(prepared)


# Compilers and half precision.


@compiles
@pytest.mark.parametrize("name", ["sequential", "words"])
def test_a_prepared_model_compiles_to_what_eager_computes(name):
    torch._dynamo.reset()
    results = []
    for compile_it in (False, True):
        prepared, _, inputs = prepare(name)
        call = torch.compile(prepared, fullgraph=True, backend="aot_eager") if compile_it else prepared
        loss = (flat_live(call(*inputs)) - 0.5).square().mean()
        loss.backward()
        results.append({"loss": loss.detach(), **{n: p.grad for n, p in prepared.named_parameters()}})
    assert results[0].keys() == results[1].keys()
    for key, value in results[0].items():
        # Bit for bit where nothing is summed in another order; batch norm's backward may be.
        torch.testing.assert_close(results[1][key], value, rtol=1e-5, atol=1e-6)
    assert torch.equal(results[0]["loss"], results[1]["loss"])


@pytest.mark.parametrize("name", ["sequential", "projection"])
def test_a_finalized_model_exports_and_compiles(name):
    prepared, _, inputs = prepare(name)
    train(prepared, inputs)
    final = mct.finalize(prepared)
    with torch.no_grad():
        expected = flat(final(*inputs))
        assert torch.equal(flat(torch.export.export(final, inputs).module()(*inputs)), expected)
        torch._dynamo.reset()
        assert torch.equal(flat(torch.compile(final, fullgraph=True, backend="aot_eager")(*inputs)), expected)


@pytest.mark.parametrize("name", ["sequential", "attention"])
def test_training_under_autocast_keeps_dtypes_and_grids(name):
    prepared, _, inputs = prepare(name)
    seen = {}

    def watch(module, args, output):
        seen[module] = (args[0].dtype, output.dtype)

    for module in prepared.modules():
        if isinstance(module, PytorchMethodQuantizer):
            module.register_forward_hook(watch)
    with torch.autocast("cpu", torch.bfloat16):
        output = prepared(*inputs)
    flat_live(output).float().square().mean().backward()
    assert output.dtype == torch.bfloat16
    assert all(given == returned for given, returned in seen.values())
    assert {given for given, _ in seen.values()} == {torch.float32, torch.bfloat16}
    assert all(p.grad.dtype == torch.float32 for p in prepared.parameters() if p.grad is not None)


def test_a_deepcopy_trains_apart():
    prepared, _, inputs = prepare()
    twin = copy.deepcopy(prepared)
    train(prepared, inputs)
    fresh, _, _ = prepare()
    for a, b in zip(twin.state_dict().values(), fresh.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    train(twin, inputs)
    assert torch.equal(flat(twin.eval()(*inputs)), flat(prepared.eval()(*inputs)))


def test_zero_learning_rate_changes_nothing():
    prepared, _, inputs = prepare(batch_norm="fold")
    expected = flat(prepared.eval()(*inputs))
    train(prepared, inputs, optimizer=torch.optim.SGD(prepared.parameters(), lr=0.0))
    assert torch.equal(flat(prepared.eval()(*inputs)), expected)


def test_calibration_has_the_data_in_any_number_of_batches():
    model, _ = built("sequential")
    for data in (images(7), [images(7)], lambda: iter([[images(1)] for _ in range(7)])):
        assert mct.plan_of(mct.prepare_qat(model, data)).quantized()
