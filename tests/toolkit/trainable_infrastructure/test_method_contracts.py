# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What every training method keeps to in a network: state, resumption, compilers, half precision, large steps."""

import copy
import io
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import method_cases
import numpy as np
import pytest
import torch
from method_cases import (
    ALL_PLANS,
    GRIDS,
    NAMES,
    PLANS,
    POT,
    SCHEDULES,
    SYMMETRIC,
    UNIFORM,
    batch,
    cases_of,
    initial_weights,
    keras_network,
    keras_quantizers,
    needs_keras,
    odd_states,
    perturbed,
    plan_of,
    quantizer_of,
    sample,
    set_state,
    state_of,
    torch_network,
    torch_quantizers,
    trainable_names,
)
from torch import nn

import model_compression_toolkit as mct
from mct_quantizers.common.lookup_table import LookupTable
from model_compression_toolkit.trainable_infrastructure import VariableGroup, regularization_loss
from model_compression_toolkit.trainable_infrastructure.methods.method import method_class

X, Y = batch()
plans = pytest.mark.parametrize("plan", PLANS, ids=str)
all_plans = pytest.mark.parametrize("plan", ALL_PLANS, ids=str)
# torch's compilers use what torch has deprecated.
compiles = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def inputs(dtype=torch.float32):
    return torch.from_numpy(X).to(dtype)


def optimizer_of(network, name="Adam", lr=1e-2):
    return getattr(torch.optim, name)(network.parameters(), lr=lr)


def train(network, optimizer, steps, call=None):
    """Losses of some steps of training."""
    losses = []
    network.train()
    for _ in range(steps):
        loss = ((call or network)(inputs()) - torch.from_numpy(Y)).square().mean() + regularization_loss(network)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def trained(plan, steps=3):
    network = torch_network(plan)
    train(network, optimizer_of(network), steps)
    return network


def assert_same_state(network, other):
    state, expected = network.state_dict(), other.state_dict()
    assert state.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(state[key], value), key


def assert_same_outputs(network, other):
    """In evaluation and in training; training moves the counters of both."""
    for mode in (False, True):
        assert torch.equal(network.train(mode)(inputs()), other.train(mode)(inputs()))


# State survives, and training goes on as if nothing had been.


@all_plans
def test_a_state_loads_strictly_into_a_fresh_network(plan):
    network, file = trained(plan), io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    fresh = torch_network(plan)
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert_same_state(fresh, network)
    assert_same_outputs(fresh, network)


@all_plans
def test_a_state_means_the_same_in_a_network_of_another_calibration(plan):
    network, fresh = trained(plan), torch_network(plan, spread=1.7)
    assert not torch.equal(fresh.eval()(inputs()), network.eval()(inputs()))
    fresh.load_state_dict(network.state_dict(), strict=True)
    assert_same_outputs(fresh, network)
    expected = network.eval()(inputs())
    for layer in (fresh[0], fresh[1], fresh[3]):
        layer.convert_to_inferable_quantizers()
    assert torch.equal(fresh(inputs()), expected)


@all_plans
def test_deepcopy_and_pickle_before_and_after_a_call(plan):
    network = torch_network(plan)
    for prepare in (lambda: None, lambda: train(network, optimizer_of(network), 2), lambda: network.eval()(inputs())):
        prepare()
        for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
            assert_same_state(twin, network)
            assert_same_outputs(twin, copy.deepcopy(network))
            for quantizer, other in zip(torch_quantizers(twin), torch_quantizers(network), strict=True):
                assert quantizer.params == other.params
                # Its own, not the original's.
                assert not {id(p) for p in quantizer.parameters()} & {id(p) for p in other.parameters()}
                found = quantizer.get_trainable_variables(VariableGroup.QPARAMS)
                assert {id(p) for p in found} == {id(p) for p in quantizer.parameters()}


@plans
@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("average", ["mean", "exponential"])
def test_averaged_models_work_before_and_after_a_call(plan, use_buffers, average):
    swa = torch.optim.swa_utils
    settings = {} if average == "mean" else {"multi_avg_fn": swa.get_ema_multi_avg_fn(0.9)}
    network = torch_network(plan)
    optimizer = optimizer_of(network)
    averaged = swa.AveragedModel(network, use_buffers=use_buffers, **settings)
    averaged.update_parameters(network)
    # The first is a copy.
    assert_same_outputs(averaged.module, copy.deepcopy(network))
    averaged = swa.AveragedModel(network, use_buffers=use_buffers, **settings)
    for _ in range(3):
        train(network, optimizer, 1)
        averaged.update_parameters(network)
    averaged.eval()
    output = averaged(inputs())
    assert torch.isfinite(output).all()
    for quantizer in torch_quantizers(averaged.module):
        quantizer.convert2inferable()
    for wrapper in averaged.module:
        if hasattr(wrapper, "convert_to_inferable_quantizers"):
            wrapper.convert_to_inferable_quantizers()
    assert torch.equal(averaged(inputs()), output)


@plans
@pytest.mark.parametrize("steps", [2, 5])
def test_training_resumes_exactly(plan, steps):
    """Also in the middle of a schedule, which ends after eight steps."""
    network = torch_network(plan)
    optimizer = optimizer_of(network)
    whole = train(network, optimizer, 2 * steps)
    first = torch_network(plan)
    optimizer = optimizer_of(first)
    losses, file = [train(first, optimizer, steps)], io.BytesIO()
    torch.save({"network": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = torch_network(plan)
    optimizer = optimizer_of(second)
    second.load_state_dict(saved["network"], strict=True)
    optimizer.load_state_dict(saved["optimizer"])
    losses.append(train(second, optimizer, steps))
    assert torch.equal(torch.cat(losses), whole)
    assert_same_state(second, network)
    for name in ("step", "annealing_step"):
        for key, value in second.state_dict().items():
            if key.endswith(f".{name}"):
                assert value.tolist() == [2.0 * steps]


RESUME = """
import sys
import torch
from method_cases import plan_of, torch_network
from test_method_contracts import optimizer_of, train

for name in ("DQA", "SOFT_ROUNDING", "STOCHASTIC", "GRADUAL"):
    saved = torch.load(f"{sys.argv[1]}/{name}.pt", weights_only=True)
    network = torch_network(plan_of(name))
    optimizer = optimizer_of(network)
    network.load_state_dict(saved["network"], strict=True)
    optimizer.load_state_dict(saved["optimizer"])
    losses = train(network, optimizer, 3)
    torch.save({"losses": losses, "state": network.state_dict()}, f"{sys.argv[1]}/{name}_resumed.pt")
"""


def run_script(script, *arguments, environment=None):
    folder = Path(method_cases.__file__).parent
    paths = [str(folder), str(folder.parent.parent)]
    completed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(environment or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


def test_training_resumes_exactly_in_a_new_process(tmp_path):
    wholes = {}
    for name in ("DQA", "SOFT_ROUNDING", "STOCHASTIC", "GRADUAL"):
        network = torch_network(plan_of(name))
        optimizer = optimizer_of(network)
        train(network, optimizer, 3)
        torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / f"{name}.pt")
        wholes[name] = (train(network, optimizer, 3), network)
    run_script(RESUME, tmp_path)
    for name, (losses, network) in wholes.items():
        resumed = torch.load(tmp_path / f"{name}_resumed.pt", weights_only=True)
        assert torch.equal(resumed["losses"], losses)
        for key, value in network.state_dict().items():
            assert torch.equal(resumed["state"][key], value)


# What is trained is what runs.


@all_plans
def test_evaluation_equals_the_frozen_network_bit_for_bit(plan):
    network = trained(plan)
    kept = copy.deepcopy(network)
    for number in range(10):
        changed = copy.deepcopy(kept)
        if number:
            for quantizer in torch_quantizers(changed):
                set_state(quantizer, odd_states(quantizer)[number])
        changed.eval()
        output = changed(inputs())
        codes = [wrapper.get_integer_weights()["weight"] for wrapper in (changed[0], changed[3])]
        for layer in (changed[0], changed[1], changed[3]):
            layer.convert_to_inferable_quantizers()
        # With huge numbers there are infinity and NaN, in both.
        torch.testing.assert_close(changed(inputs()), output, rtol=0, atol=0, equal_nan=True)
        # In training mode, too: nothing is trained any more but the weights themselves.
        torch.testing.assert_close(changed.train()(inputs()), output, rtol=0, atol=0, equal_nan=True)
        assert number or torch.isfinite(output).all()
        for wrapper, expected in zip((changed[0], changed[3]), codes, strict=True):
            assert torch.equal(wrapper.get_integer_weights()["weight"], expected)
        # Twice changes nothing.
        state = {key: value.clone() for key, value in changed.state_dict().items()}
        quantizers = torch_quantizers(changed)
        for layer in (changed[0], changed[1], changed[3]):
            layer.convert_to_inferable_quantizers()
        assert torch_quantizers(changed) == quantizers
        for key, value in changed.state_dict().items():
            assert torch.equal(value, state[key])


@plans
def test_frozen_networks_keep_no_state_of_training(plan):
    network = trained(plan)
    for layer in (network[0], network[1], network[3]):
        layer.convert_to_inferable_quantizers()
    names = {name.rpartition(".")[0] + "." + name.rpartition(".")[2] for name in network.state_dict()}
    for word in ("step", "noise", "rounding", "attention", "alpha", "offset", "basis", "levels"):
        assert not any(name.endswith(f".{word}") for name in names)
    parameters = dict(network.named_parameters())
    assert set(parameters) == {"0.weight", "0.layer.bias", "3.weight", "3.layer.bias"}
    assert regularization_loss(network) == 0


@plans
def test_whole_models_train_finalize_and_are_left_as_they_were(plan):
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    with torch.no_grad():
        for layer, (weight, bias) in zip((model[0], model[2]), initial_weights(), strict=True):
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.copy_(torch.from_numpy(bias))
    model.eval()
    model[0].train()
    hook = model[2].register_forward_hook(lambda *_: None)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    flags, objects = [module.training for module in model.modules()], [id(p) for p in model.parameters()]
    grids = [grid for grid in GRIDS if grid in method_class(plan.weights).supports]
    settings = SCHEDULES.get(plan.weights, {})
    config = mct.QATConfig(plan.weights, plan.activation, settings, SCHEDULES.get(plan.activation, {}))
    wrong = mct.QATConfig(plan.weights, plan.activation, {"no_such_setting": 1})
    for grid in grids:
        tensor = mct.TensorConfig(num_bits=4, method=grid)
        quantization = mct.QuantizationConfig(weights=tensor, activations=tensor)
        with pytest.raises(TypeError, match="no_such_setting"):
            mct.prepare_qat(model, inputs(), quantization, wrong)
        prepared = mct.prepare_qat(model, inputs(), quantization, config)
        losses = train(prepared, optimizer_of(prepared), 3)
        assert torch.isfinite(losses).all()
        expected = prepared.eval()(inputs())
        final = mct.finalize(prepared)
        assert torch.equal(final(inputs()), expected)
        with pytest.raises(ValueError, match="finalized already"):
            mct.finalize(final)
        with pytest.raises(ValueError, match=r"quantized|prepared"):
            mct.prepare_qat(prepared, inputs(), quantization, config)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert [module.training for module in model.modules()] == flags
    assert [id(p) for p in model.parameters()] == objects
    assert list(model[2]._forward_hooks) == [hook.id]
    assert all(p.grad is None for p in model.parameters())


# Shapes, half precision.


@all_plans
@pytest.mark.parametrize("cast", ["half", "bfloat16", "double"])
def test_casts_leave_the_state_of_quantizers_in_float32_bit_for_bit(plan, cast):
    network = trained(plan)
    before = [state_of(quantizer) for quantizer in torch_quantizers(network)]
    getattr(network, cast)()
    dtype = getattr(torch, cast) if cast != "half" else torch.float16
    assert network[0].weight.dtype == dtype
    for quantizer, state in zip(torch_quantizers(network), before, strict=True):
        assert all(value.ndim > 0 for value in state.values())
        assert state_of(quantizer).keys() == state.keys()
        for name, value in state_of(quantizer).items():
            assert value.dtype == state[name].dtype
            np.testing.assert_array_equal(value, state[name])
    output = network(inputs(dtype))
    assert output.dtype == dtype
    output.square().mean().backward()
    for quantizer in torch_quantizers(network):
        for name in trainable_names(quantizer):
            gradient = quantizer.get_quantizer_variable(name).grad
            assert gradient.dtype == torch.float32
            assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("case", cases_of(*NAMES), ids=str)
def test_half_precision_gives_the_codes_of_float32_also_under_autocast(case, dtype, training):
    x = torch.from_numpy(sample(case)).to(dtype)
    results = []
    for value, is_autocast in ((x.float(), False), (x, False), (x, True), (x.float(), True)):
        quantizer = quantizer_of("pytorch", case, **SCHEDULES.get(case.name, {}))
        for _ in range(2):
            with torch.autocast("cpu", dtype, enabled=is_autocast):
                output = quantizer(value, training=training)
        assert output.dtype == value.dtype
        results.append(output.detach())
    expected, plain, cast, wide = results
    assert torch.equal(plain, expected.to(dtype))
    assert torch.equal(cast, plain)
    assert torch.equal(wide, expected)


@plans
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_networks_train_under_autocast(plan, dtype):
    network = torch_network(plan)
    optimizer = optimizer_of(network)
    for _ in range(3):
        with torch.autocast("cpu", dtype):
            output = network(inputs())
            loss = (output.float() - torch.from_numpy(Y)).square().mean() + regularization_loss(network)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in network.parameters())
        optimizer.step()
    assert all(p.dtype == torch.float32 for p in network.parameters())
    network.eval()
    weights = network[0].get_quantized_weights()["weight"]
    with torch.autocast("cpu", dtype):
        assert torch.equal(network[0].get_quantized_weights()["weight"], weights)


# Compilers.


@compiles
@pytest.mark.parametrize("plan", [*PLANS, plan_of("LSQ", POT, 1), plan_of("LSQ", SYMMETRIC, None)], ids=str)
def test_compiled_training_equals_eager_bit_for_bit(plan, monkeypatch):
    # Native code adds in another order than torch's own kernels do; test_native_kernels.py compares the two.
    monkeypatch.setattr("mct_quantizers.pytorch.native.fake_quantize.native_library", lambda: None)
    torch.compiler.reset()
    results = []
    for is_compiled in (False, True):
        network = torch_network(plan)
        # Ahead-of-time autograd traces forward and backward, with torch's own kernels: no last bit may differ.
        call = torch.compile(network, fullgraph=True, backend="aot_eager") if is_compiled else network
        losses = train(network, optimizer_of(network, "SGD", 0.05), 3, call)
        gradients = {name: p.grad for name, p in network.named_parameters()}
        results.append((losses, gradients, network, call.eval()(inputs())))
    (losses, gradients, network, output), (compiled_losses, compiled_gradients, compiled_network, compiled_output) = (
        results
    )
    if plan.weights == "DQA":
        # A power and an exponential, which the compiler takes apart: the last bits of the shares.
        torch.testing.assert_close(compiled_losses, losses, rtol=1e-5, atol=0)
        torch.testing.assert_close(compiled_output, output, rtol=1e-4, atol=1e-5)
        return
    assert torch.equal(compiled_losses, losses)
    assert torch.equal(compiled_output, output)
    for name, gradient in gradients.items():
        other = compiled_gradients[name]
        assert (gradient is None and other is None) or torch.equal(gradient, other), name
    assert_same_state(compiled_network, network)


@compiles
@pytest.mark.parametrize("name", ["LSQ", "DQA", "LUT"])
def test_the_default_compiler_trains_as_eager_does(name):
    torch.compiler.reset()
    losses = []
    for is_compiled in (False, True):
        network = torch_network(plan_of(name))
        call = torch.compile(network, fullgraph=True) if is_compiled else network
        losses.append(train(network, optimizer_of(network, "SGD", 0.05), 5, call))
    # Sums in another order, products and sums in one rounding.
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=0)


@compiles
@pytest.mark.parametrize("name", ["LSQ", "APOT", "SOFT_ROUNDING"])
def test_channels_count_for_a_compiler_that_does_not_know_the_shapes(name):
    torch.compiler.reset()
    eager, dynamic = torch_network(plan_of(name)), torch_network(plan_of(name))
    call = torch.compile(dynamic, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in (3, 5):
        expected, output = eager(inputs()[:size]), call(inputs()[:size])
        assert torch.equal(output, expected)
        output.sum().backward()


@compiles
@plans
def test_switching_between_training_and_evaluation_compiles_twice_in_all(plan):
    torch.compiler.reset()
    graphs = []

    def backend(module, example_inputs):
        graphs.append(module)
        return module.forward

    network, twin = torch_network(plan), torch_network(plan)
    compiled = torch.compile(network, fullgraph=True, backend=backend)
    for mode in (True, True, True, False, False, True, True, False):
        output, expected = compiled.train(mode)(inputs()), twin.train(mode)(inputs())
        assert torch.equal(output, expected)
        if mode:
            output.sum().backward()
            # Counters move with the gradients.
            expected.sum().backward()
    assert len(graphs) == 2
    assert_same_state(network, twin)


@compiles
@plans
def test_frozen_networks_export(plan):
    network = trained(plan).eval()
    for layer in (network[0], network[1], network[3]):
        layer.convert_to_inferable_quantizers()
    exported = torch.export.export(network, (inputs(),))
    assert torch.equal(exported.module()(inputs()), network(inputs()))


# Large steps.


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("plan", [*PLANS, *(plan_of(name, grid) for name in NAMES for grid in (POT, SYMMETRIC)
                                            if {grid, UNIFORM} <= method_class(name).supports)], ids=str)  # fmt: skip
def test_scales_stay_positive_and_finite_at_ten_times_the_learning_rate(plan, optimizer):
    network = torch_network(plan)
    trainer = optimizer_of(network, optimizer, 10 * {"SGD": 0.05, "Adam": 1e-2}[optimizer])
    for _ in range(20):
        losses = train(network, trainer, 10)
        assert torch.isfinite(losses).all()
        for quantizer in torch_quantizers(network):
            params = quantizer.params
            size = params.threshold if isinstance(params, LookupTable) else params.scale
            assert np.isfinite(size).all()
            assert (size > 0).all()
        assert torch.isfinite(network.eval()(inputs())).all()


# Several processes.

SHARDED = """
import os
import sys
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from method_cases import Plan, SYMMETRIC, batch, torch_network
from model_compression_toolkit.trainable_infrastructure import regularization_loss

torch.set_num_threads(1)
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
x, y = (torch.from_numpy(array)[rank::2] for array in batch())
results = {}
for name in sys.argv[3:]:
    network = torch_network(Plan(name, "STE", SYMMETRIC, 0))
    for layer in network:
        if any(True for _ in layer.parameters()):
            fully_shard(layer, mesh=mesh)
    fully_shard(network, mesh=mesh)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    for _ in range(3):
        # A mean over the batch at hand: the processes' gradients are averaged.
        ((network(x) - y).square().mean() + regularization_loss(network)).backward()
        optimizer.step()
        optimizer.zero_grad()
    output = network.eval()(torch.from_numpy(batch()[0]))
    state = network.state_dict()
    state = {key: value.full_tensor() if hasattr(value, "full_tensor") else value for key, value in state.items()}
    results[name] = {"output": output.detach(), "state": state}
if rank == 0:
    torch.save(results, f"{folder}/result.pt")
# Both are done before either leaves, and none waits for threads of gloo that Python would end in the middle of work.
dist.barrier()
dist.destroy_process_group()
os._exit(0)
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")
def test_two_sharded_processes_train_what_one_does(tmp_path):
    # The gradient factors of activations count the batch at hand: those are trained by STE.
    names = ("LSQ", "LUT", "DSQ", "PACT", "DQA", "SOFT_ROUNDING")
    folder = Path(method_cases.__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(folder.parent.parent)])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SHARDED, str(rank), tmp_path, *names],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    results = torch.load(tmp_path / "result.pt", weights_only=True)
    for name in names:
        network = torch_network(method_cases.Plan(name, "STE", SYMMETRIC, 0))
        optimizer = optimizer_of(network, "SGD", 0.05)
        for _ in range(3):
            ((network(inputs()) - torch.from_numpy(Y)).square().mean() + regularization_loss(network)).backward()
            optimizer.step()
            optimizer.zero_grad()
        assert results[name]["state"].keys() == network.state_dict().keys()
        for key, value in network.state_dict().items():
            # Means over two halves of a batch are summed in another order.
            torch.testing.assert_close(results[name]["state"][key], value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(results[name]["output"], network.eval()(inputs()), rtol=1e-5, atol=1e-5)


# Keras.

keras_marks = [needs_keras, pytest.mark.keras]
keras_plans = pytest.mark.parametrize("plan", [pytest.param(plan, marks=keras_marks, id=str(plan)) for plan in PLANS])


def keras_output(model, x=X):
    import keras

    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(model(x, training=False), "float32")))


def keras_train(model, steps):
    return [float(model.train_on_batch(X, Y)) for _ in range(steps)]


def frozen_keras(model):
    """The layers of the network after conversion, one after the other."""
    layers = [
        layer.convert_to_inferable_quantizers() if "Quantiz" in type(layer).__name__ else layer
        for layer in model.layers
    ]

    def call(x, training=False):
        for layer in layers:
            x = layer(x)
        return x

    return call, layers


@pytest.mark.slow_on("jax")
@keras_plans
def test_keras_files_hold_everything_and_training_resumes_exactly(plan, tmp_path):
    import keras

    model = keras_network(plan, optimizer=keras.optimizers.Adam(0.01))
    before = [state_of(quantizer) for quantizer in keras_quantizers(model)]
    keras_train(model, 3)
    for quantizer, state in zip(keras_quantizers(model), before, strict=True):
        for name, value in state_of(quantizer).items():
            moves = name in ("step", "annealing_step", "noise") or name in trainable_names(quantizer)
            # Only elements that are clipped move an offset, and there need not be any.
            assert name == "offset" or np.array_equal(value, state[name]) != moves, (quantizer.method.name, name)
    model.save(tmp_path / "model.keras")
    loaded = mct.keras_load_quantized_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras_output(loaded), keras_output(model))
    for quantizer, other in zip(keras_quantizers(loaded), keras_quantizers(model), strict=True):
        assert type(quantizer) is type(other)
        assert quantizer.params == other.params
        assert quantizer.method_arguments == other.method_arguments == SCHEDULES.get(quantizer.method.name, {})
        np.testing.assert_equal(state_of(quantizer), state_of(other))
    assert keras_train(loaded, 4) == keras_train(model, 4)
    for quantizer, other in zip(keras_quantizers(loaded), keras_quantizers(model), strict=True):
        np.testing.assert_equal(state_of(quantizer), state_of(other))
        for name in ("step", "annealing_step"):
            assert state_of(quantizer).get(name, [7]) == [7]
    np.testing.assert_array_equal(keras_output(loaded), keras_output(model))


@keras_plans
def test_keras_evaluation_equals_the_frozen_network_bit_for_bit(plan, tmp_path):
    import keras

    model = keras_network(plan)
    for quantizer in keras_quantizers(model):
        perturbed(quantizer)
    model.save(tmp_path / "model.keras")
    for number in range(0, 10, 3):
        changed = mct.keras_load_quantized_model(tmp_path / "model.keras")
        if number:
            for quantizer in keras_quantizers(changed):
                set_state(quantizer, odd_states(quantizer)[number])
        output = keras_output(changed)
        frozen, layers = frozen_keras(changed)
        np.testing.assert_array_equal(keras_output(frozen), output)
        # The layers themselves are converted as well, and once more changes nothing.
        np.testing.assert_array_equal(keras_output(changed), output)
        for layer in [*changed.layers, *layers]:
            if "Quantiz" in type(layer).__name__:
                assert layer.convert_to_inferable_quantizers() is None
    final = keras.Sequential([keras.Input((X.shape[1],)), *frozen_keras(model)[1]])
    final.save(tmp_path / "final.keras")
    loaded = mct.keras_load_quantized_model(tmp_path / "final.keras")
    np.testing.assert_array_equal(keras_output(loaded), keras_output(final))
    words = ("step", "noise", "rounding", "attention", "alpha", "offset", "basis", "levels", "scale")
    assert not [variable.path for variable in loaded.variables if variable.name.rpartition("_")[2] in words]


KERAS_PROCESS = """
import sys
import numpy as np
import model_compression_toolkit as mct
from test_method_contracts import keras_output, keras_train

for name in sys.argv[2:]:
    model = mct.keras_load_quantized_model(f"{sys.argv[1]}/{name}.keras")
    output = keras_output(model)
    losses = keras_train(model, 3)
    np.savez(f"{sys.argv[1]}/{name}.npz", output=output, losses=losses, after=keras_output(model))
"""


@needs_keras
@pytest.mark.keras
def test_keras_files_load_and_train_on_in_a_new_process(tmp_path):
    names, models = ("DQA", "STOCHASTIC"), {}
    for name in names:
        models[name] = keras_network(plan_of(name))
        keras_train(models[name], 3)
        models[name].save(tmp_path / f"{name}.keras")
    run_script(KERAS_PROCESS, tmp_path, *names)
    for name, model in models.items():
        found = np.load(tmp_path / f"{name}.npz")
        np.testing.assert_array_equal(found["output"], keras_output(model))
        np.testing.assert_array_equal(found["losses"], keras_train(model, 3))
        np.testing.assert_array_equal(found["after"], keras_output(model))


@pytest.mark.slow_on("jax")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@keras_plans
def test_keras_mixed_precision_gives_the_codes_of_float32(plan, dtype):
    import keras

    try:
        keras.config.set_dtype_policy(f"mixed_{dtype}")
        model = keras_network(plan)
    finally:
        keras.config.set_dtype_policy("float32")
    expected = keras_network(plan)
    if dtype == "bfloat16":
        # One of both is enough: what is trained is float32 either way.
        keras_train(model, 2)
    for quantizer, other in zip(keras_quantizers(model), keras_quantizers(expected), strict=True):
        assert {name: value.dtype for name, value in state_of(quantizer).items()} == {
            name: value.dtype for name, value in state_of(other).items()
        }
        set_state(other, state_of(quantizer))
    assert all(
        np.isfinite(value).all() for quantizer in keras_quantizers(model) for value in state_of(quantizer).values()
    )
    for index in (0, 3):
        wrapper, other = model.layers[index], expected.layers[index]
        other.layer.set_weights(wrapper.layer.get_weights())
        np.testing.assert_array_equal(wrapper.get_integer_weights()["kernel"], other.get_integer_weights()["kernel"])
    x = keras.ops.cast(keras.ops.convert_to_tensor(X), dtype)
    for training in (False, True):
        quantized = model.layers[1](x, training=training)
        assert keras.backend.standardize_dtype(quantized.dtype) == dtype
        single = expected.layers[1](keras.ops.cast(x, "float32"), training=training)
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(keras.ops.cast(quantized, "float32")),
            keras.ops.convert_to_numpy(keras.ops.cast(keras.ops.cast(single, dtype), "float32")),
        )


@keras_plans
def test_keras_state_is_variables_of_the_layers_that_train(plan):
    model = keras_network(plan)
    trainable = {id(variable) for variable in model.trainable_variables}
    everything = {id(variable) for variable in model.variables}
    for quantizer in keras_quantizers(model):
        for name, entry in quantizer.quantizer_parameters.items():
            assert id(entry["var"]) in everything
            assert (id(entry["var"]) in trainable) == (name in trainable_names(quantizer))
            assert len(entry["var"].shape) > 0
