# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Every training method trains the same in PyTorch, eager and compiled, and in Keras on the backend of the day.

The states come from NumPy; PyTorch, eager, is what the others are held against, computed in the same process.
"""

import numpy as np
import pytest
from engines import compiled_keras, compiled_torch
from toolkit.trainable_infrastructure.method_cases import (
    ACTIVATION,
    ALL_PLANS,
    PLANS,
    SCHEDULES,
    WEIGHT,
    Case,
    batch,
    cases_of,
    end_step,
    gradients,
    keras_network,
    keras_quantizers,
    needs_keras,
    needs_torch,
    penalty,
    perturbed,
    plan_of,
    quantizer_of,
    run,
    sample,
    set_state,
    state_of,
    tensor_for,
    torch_network,
    torch_quantizers,
)

from model_compression_toolkit.trainable_infrastructure.methods.method import registered_names

NAMES = registered_names()
CASES = [case for case in cases_of(*NAMES) if case.axis != 0]
FEW = [case for index, case in enumerate(CASES) if index % 3 == NAMES.index(case.name) % 3]
"""A third, other grids for weights and activations."""
STEPS = 20
WITH_FUNCTIONS = ("DQA", "DOREFA", "SOFT_ROUNDING")
"""The methods that use exponentials, logarithms or tangents, which libraries round in their own ways."""
X, Y = batch()


def tensor_to_numpy(tensor):
    import keras

    return np.asarray(keras.ops.convert_to_numpy(tensor))


def pair(case: Case, **settings):
    """The quantizers of a case in PyTorch and Keras, in the same state."""
    torch_quantizer, keras_quantizer = (quantizer_of(wing, case, **settings) for wing in ("pytorch", "keras"))
    set_state(keras_quantizer, perturbed(torch_quantizer))
    return torch_quantizer, keras_quantizer


def assert_same_numbers(case: Case, ours: np.ndarray, expected: np.ndarray, training: bool, name: str = "") -> None:
    """Equal to the last bit where only the basic operations of IEEE 754 are used."""
    if training and case.name in WITH_FUNCTIONS and not (case.name == "DOREFA" and case.target is ACTIVATION):
        # A few roundings of what is of the size of the range; of DoReFa no code may differ, it is rounded afterwards.
        np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-6, err_msg=name)
    else:
        np.testing.assert_array_equal(ours, expected, err_msg=name)


@needs_torch
@needs_keras
@pytest.mark.keras
@pytest.mark.parametrize("case", CASES, ids=str)
def test_keras_has_the_outputs_and_state_of_pytorch(case):
    """Three calls in training, in which counters move, and one in evaluation, of NaN and infinity too."""
    quantizers, x = pair(case, **SCHEDULES.get(case.name, {})), sample(case)
    # No subnormal numbers: TensorFlow takes them for zero.
    x.flat[:5] = [0.0, np.nan, 1e-30, 2e38, -2e38]
    if case.name == "DOREFA":
        # The largest weight is the measure of the others.
        x.flat[:5] = [0.0, 3.0, 1e-30, -3.0, 0.5]
    for training in (True, True, True, False):
        expected, ours = (run(quantizer, x, training) for quantizer in quantizers)
        assert_same_numbers(case, ours, expected, training)
        end_step(quantizers[0])
    for name, value in state_of(quantizers[0]).items():
        np.testing.assert_array_equal(state_of(quantizers[1])[name], value, err_msg=name)
    assert quantizers[0].params == quantizers[1].params
    finite = np.nan_to_num(x)
    codes = [np.asarray(quantizer.quantize(tensor_for(quantizer, finite))) for quantizer in quantizers]
    np.testing.assert_array_equal(codes[1], codes[0])


@needs_torch
@needs_keras
@pytest.mark.keras
@pytest.mark.parametrize("case", FEW, ids=str)
def test_keras_has_the_gradients_of_pytorch(case):
    quantizers, x = pair(case, **SCHEDULES.get(case.name, {})), sample(case)
    upstream = np.random.default_rng(4).normal(size=case.shape).astype(np.float32)
    for quantizer in quantizers:
        for name in ("step", "annealing_step"):
            if name in state_of(quantizer):
                set_state(quantizer, {name: np.array([5.0], np.float32)})
    found = []
    for quantizer in quantizers:
        weights = tensor_for(quantizer, upstream)
        found.append(gradients(quantizer, x, lambda output, weights=weights: output * output * weights))
    expected, ours = found
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        # Sums in another order; where terms cancel, of their size.
        np.testing.assert_allclose(
            ours[name], value, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(value).max()), err_msg=name
        )
    weight = x if case.target is WEIGHT else None
    if quantizers[0].regularization(None if weight is None else tensor_for(quantizers[0], weight)) is not None:
        (expected_value, expected), (value, ours) = (penalty(quantizer, weight) for quantizer in quantizers)
        np.testing.assert_allclose(value, expected_value, rtol=1e-5)
        for name, gradient in expected.items():
            np.testing.assert_allclose(ours[name], gradient, rtol=1e-4, atol=1e-6, err_msg=name)


@needs_keras
@pytest.mark.keras
@pytest.mark.parametrize("case", [case for case in FEW if case.target is WEIGHT], ids=str)
def test_compiled_keras_evaluates_as_eager_keras_does(case):
    quantizer, x = quantizer_of("keras", case), sample(case)
    perturbed(quantizer)
    expected = run(quantizer, x)
    call = compiled_keras(lambda tensor: quantizer(tensor, training=False))
    ours = tensor_to_numpy(call(tensor_for(quantizer, x)))
    if case.name == "DOREFA":
        # Tangents of compilers differ in the last bit: a weight next to an edge may round the other way.
        assert np.mean(ours != expected) <= 0.02
    else:
        np.testing.assert_array_equal(ours, expected)


@needs_torch
@pytest.mark.parametrize("case", [Case(name, plan_of(name).grid, WEIGHT, 1) for name in ("LSQ", "DSQ", "LUT")], ids=str)
def test_compiled_pytorch_has_the_outputs_and_gradients_of_eager(case):
    import torch

    x, results = sample(case), []
    for wrap in (lambda function: function, compiled_torch):
        quantizer = quantizer_of("pytorch", case)
        perturbed(quantizer)
        call = wrap(lambda tensor, quantizer=quantizer: quantizer(tensor, training=True))
        tensor = torch.from_numpy(x).requires_grad_()
        output = call(tensor)
        (output * output).sum().backward()
        results.append([output.detach(), tensor.grad, *(parameter.grad for parameter in quantizer.parameters())])
    (expected, *expected_gradients), (ours, *gradients_) = results
    assert torch.equal(ours, expected)
    for gradient, wanted in zip(gradients_, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-5)


def transferred(plan):
    """The same network in both wings: state by state, kernels the other way around."""
    network, model = torch_network(plan), keras_network(plan)
    for source, target in zip(torch_quantizers(network), keras_quantizers(model), strict=True):
        state = {name: value.T if value.ndim == 2 else value for name, value in state_of(source).items()}
        set_state(target, state)
    return network, model


def train_torch(network, with_penalties=True):
    import torch

    from model_compression_toolkit.trainable_infrastructure import regularization_loss

    optimizer, losses = torch.optim.SGD(network.parameters(), lr=0.05), []
    for _ in range(STEPS):
        loss = (network(torch.from_numpy(X)) - torch.from_numpy(Y)).square().mean()
        if with_penalties:
            loss = loss + regularization_loss(network)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@needs_torch
@needs_keras
@pytest.mark.keras
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_keras_trains_the_network_as_pytorch_does(plan):
    """Plain SGD, penalties and schedules included, which end after eight steps."""
    import torch

    network, model = transferred(plan)
    expected = train_torch(network)
    losses = [float(model.train_on_batch(X, Y)) for _ in range(STEPS)]
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    output = network.eval()(torch.from_numpy(X)).detach().numpy()
    # Codes may differ by one where the last bits of a weight decide; the network has 4 bits. Where none does, outputs
    # differ as the learned scales do: by up to a thousandth of themselves, as below.
    difference = np.abs(tensor_to_numpy(model(X, training=False)) - output)
    assert np.mean(difference > 2e-3) < 0.1
    for ours, theirs in zip(keras_quantizers(model), torch_quantizers(network), strict=True):
        found = state_of(ours)
        for name, value in state_of(theirs).items():
            if name in ("step", "annealing_step", "noise", "zero_point"):
                np.testing.assert_array_equal(found[name], value.T)
            else:
                # The gradient of DSQ has tangents, which libraries round in their own ways: a code that differs once
                # moves a scale by up to a hundredth.
                rtol = 2e-2 if plan.weights == "DSQ" else 1e-3
                np.testing.assert_allclose(found[name], value.T, rtol=rtol, atol=1e-4, err_msg=name)


# Of the losses of the networks: first, tenth and last. PyTorch 2.13, CPU, float32.
RECORDED = {
    "APOT": [0.621105, 0.493673, 0.452483],
    "DOREFA": [0.670351, 0.511463, 0.445500],
    "DQA": [0.766810, 0.482212, 0.436356],
    "DSQ": [0.679235, 0.481026, 0.405100],
    "EWGS": [0.679235, 0.503400, 0.418310],
    "GRADUAL": [0.651849, 0.493073, 0.418123],
    "LQ_NETS": [0.643709, 0.498893, 0.436241],
    "LSQ": [0.679235, 0.503584, 0.406444],
    "LSQ_PLUS": [0.679235, 0.502710, 0.421540],
    "LUT": [0.643709, 0.506236, 0.441108],
    "PACT": [0.681005, 0.501221, 0.413481],
    "SOFT_ROUNDING": [0.665577, 0.776013, 0.713436],
    "STE": [0.679235, 0.507687, 0.431170],
    "STOCHASTIC": [0.658636, 0.508472, 0.411936],
}


@needs_torch
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_pytorch_trains_the_network_as_it_was_recorded(plan):
    """Numbers of a release: a change of these is a change of what users get."""
    losses = train_torch(torch_network(plan))
    np.testing.assert_allclose([losses[0], losses[9], losses[-1]], RECORDED[plan.weights], rtol=1e-3)


@needs_torch
@pytest.mark.parametrize("plan", ALL_PLANS, ids=str)
def test_every_network_learns(plan):
    losses = train_torch(torch_network(plan, num_bits=8), with_penalties=False)
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.9 * losses[0]


@needs_keras
@pytest.mark.keras
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_a_step_of_tensorflow_reads_each_weight_once(plan):
    """Of several reads one may come after the optimizer's assignment: the penalty was then that of the next step."""
    import keras

    if keras.config.backend() != "tensorflow":
        pytest.skip("only TensorFlow reads variables again and again")
    import tensorflow as tf

    model = keras_network(plan)
    step = tf.function(lambda x: model(x, training=True)).get_concrete_function(tf.constant(X))
    reads = [read.inputs[0].name for read in step.graph.get_operations() if read.type == "ReadVariableOp"]
    names = {placeholder.name: variable for variable, placeholder in step.graph.captures}
    kernels = [layer.layer.kernel.value.handle for layer in model.layers if hasattr(layer, "layer")]
    counts = [sum(names[name] is kernel for name in reads) for kernel in kernels]
    assert counts == [1, 1]
