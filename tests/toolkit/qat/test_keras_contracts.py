# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What every Keras model can do, a model in quantization-aware training can do: loops, callbacks, files, compilers."""

import copy
import functools
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("keras.layers")

import keras
import keras_models
from keras import layers, ops
from keras_models import built, random, run

import model_compression_toolkit as mct
from model_compression_toolkit.core.keras.surgery import names_of

pytestmark = pytest.mark.keras

BACKEND = keras.config.backend()


def prepare(name="shared", bits="w4a4", **arguments):
    model, inputs = built(name)
    return mct.prepare_qat(model, [inputs], mct.QuantizationConfig.from_bits(bits, **arguments))


@functools.cache
def task(name="shared"):
    """Inputs and targets of a task that a model of the zoo can learn."""
    model, inputs = built(name)
    return inputs, np.tanh(ops.convert_to_numpy(model(inputs))) + 0.1


def compiled(model, optimizer=None, **arguments):
    model.compile(optimizer or keras.optimizers.Adam(1e-2), "mse", **arguments)
    return model


def fit(model, name="shared", epochs=3, **arguments):
    inputs, targets = task(name)
    history = model.fit(inputs, targets, epochs=epochs, batch_size=8, shuffle=False, verbose=0, **arguments)
    return np.array(history.history["loss"])


def state(model):
    return [value.copy() for value in model.get_weights()]


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def check_finalize(model, name="shared"):
    inputs, _ = task(name)
    expected = run(model, inputs)
    assert np.array_equal(run(mct.finalize(model), inputs), expected)


# Loops.


def test_callbacks_see_a_model_as_any_other(tmp_path):
    best = tmp_path / "best.keras"
    rates = []
    callbacks = [
        keras.callbacks.ModelCheckpoint(best, monitor="loss", save_best_only=True),
        keras.callbacks.EarlyStopping(monitor="loss", min_delta=1e9, patience=2),
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: rates.append(logs["learning_rate"])),
        keras.callbacks.TerminateOnNaN(),
    ]
    # Wide ends and small steps: the loss falls in every epoch, so that the last is the best.
    model = compiled(prepare(first_last_bits=8), keras.optimizers.Adam(2e-3))
    losses = fit(model, epochs=9, callbacks=callbacks)
    assert len(losses) == 3
    np.testing.assert_allclose(rates, [1e-3, 5e-4, 2.5e-4], rtol=1e-6)
    loaded = mct.keras_load_quantized_model(best)
    inputs, targets = task()
    assert np.array_equal(run(loaded, inputs), run(model, inputs))
    assert np.isfinite(loaded.evaluate(inputs, targets, verbose=0))
    check_finalize(loaded)


def test_a_schedule_in_the_optimizer_and_a_validation_set():
    schedule = keras.optimizers.schedules.CosineDecay(1e-2, 12)
    model = compiled(prepare(), keras.optimizers.SGD(schedule, momentum=0.9), metrics=["mae"])
    losses = fit(model, validation_data=task())
    assert losses[-1] < losses[0]
    check_finalize(model)


def test_train_on_batch_does_what_fit_does():
    inputs, targets = task()
    first, second = compiled(prepare()), compiled(prepare())
    fit(first, epochs=1)
    for start in range(0, len(inputs), 8):
        second.train_on_batch(inputs[start : start + 8], targets[start : start + 8])
    for a, b in zip(state(first), state(second), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


def custom_steps(model, inputs, targets, steps, rate):
    """Gradient descent by hand, as each backend does it; the losses."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        def step():
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(inputs, training=True) - targets) ** 2)
            for variable, gradient in zip(
                model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True
            ):
                variable.assign(variable - rate * gradient)
            return float(loss)

        return [step() for _ in range(steps)]
    if BACKEND == "torch":
        import torch

        optimizer = torch.optim.SGD(model.parameters(), rate)

        def step():
            optimizer.zero_grad()
            loss = (model(inputs, training=True) - torch.from_numpy(targets)).square().mean()
            loss.backward()
            optimizer.step()
            return loss.item()

        return [step() for _ in range(steps)]
    import jax

    def loss_of(trainable, rest):
        outputs, rest = model.stateless_call(trainable, rest, inputs, training=True)
        return ((outputs - targets) ** 2).mean(), rest

    gradient = jax.jit(jax.value_and_grad(loss_of, has_aux=True))
    trainable = [variable.value for variable in model.trainable_variables]
    rest = [variable.value for variable in model.non_trainable_variables]
    losses = []
    for _ in range(steps):
        (loss, rest), gradients = gradient(trainable, rest)
        trainable = [value - rate * change for value, change in zip(trainable, gradients, strict=True)]
        losses.append(float(loss))
    for variables, values in ((model.trainable_variables, trainable), (model.non_trainable_variables, rest)):
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
    return losses


def test_a_loop_of_the_users_own_trains_as_fit_does():
    inputs, targets = task()
    targets = targets.astype(np.float32)
    by_hand, fitted = prepare(), prepare()
    losses = custom_steps(by_hand, inputs, targets, 3, 0.05)
    compiled(fitted, keras.optimizers.SGD(0.05))
    expected = fitted.fit(inputs, targets, epochs=3, batch_size=64, shuffle=False, verbose=0).history["loss"]
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    for a, b in zip(state(by_hand), state(fitted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    check_finalize(by_hand)


@pytest.mark.skipif(BACKEND == "torch", reason="torch has a compiler of its own, tests/keras holds it")
def test_compiled_training_is_eager_training():
    results = []
    for arguments in ({"jit_compile": True}, {"jit_compile": False, "run_eagerly": True}):
        model = compiled(prepare(), keras.optimizers.SGD(0.05), **arguments)
        results.append((fit(model, epochs=1), state(model)))
    (compiled_losses, compiled_state), (eager_losses, eager_state) = results
    np.testing.assert_allclose(compiled_losses, eager_losses, rtol=1e-4)
    for a, b in zip(compiled_state, eager_state, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.skipif(BACKEND == "torch", reason="torch has a compiler of its own, tests/keras holds it")
def test_freezing_batch_norm_statistics_compiles_once_more():
    """With the state of the optimizer: the step after is the one that was to come."""
    inputs, targets = random(32, 4), np.tanh(random(32, 2, seed=1))
    x = keras.Input((4,), name="x")
    y = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(layers.Dense(6, name="first")(x)))
    model = mct.prepare_qat(keras.Model(x, layers.Dense(2, name="second")(y)), inputs)
    traces = []

    def loss(expected, received):
        traces.append(1)
        return keras.losses.mean_squared_error(expected, received)

    def epochs(count):
        before = len(traces)
        model.fit(inputs, targets, epochs=count, batch_size=8, shuffle=False, verbose=0)
        return len(traces) - before

    model.compile(keras.optimizers.Adam(1e-2), loss, jit_compile=True)
    once = epochs(2)
    assert epochs(2) == 0
    mct.freeze_batch_norm_statistics(model)
    optimizer = model.optimizer
    model.compile(optimizer, loss, jit_compile=True)
    before = ops.convert_to_numpy(model.get_layer("norm").moving_mean).copy()
    assert epochs(1) <= once
    assert epochs(2) == 0
    assert np.array_equal(ops.convert_to_numpy(model.get_layer("norm").moving_mean), before)
    assert model.optimizer is optimizer
    assert int(optimizer.iterations) == 7 * 4


def test_mixed_precision_trains_and_finalizes():
    former = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    try:
        x = keras.Input((4,), name="x")
        y = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(layers.Dense(6, name="first")(x)))
        model = keras.Model(x, layers.Dense(2, name="second")(y))
        inputs, targets = task()
        prepared = compiled(mct.prepare_qat(model, inputs))
        losses = fit(prepared)
    finally:
        keras.mixed_precision.set_dtype_policy(former)
    assert losses[-1] < losses[0]
    assert prepared(inputs).dtype == model(inputs).dtype
    assert {variable.dtype for variable in prepared.trainable_variables} == {"float32"}
    assert targets.shape == (len(inputs), 2)
    final = mct.finalize(prepared)
    expected, received = run(prepared, inputs), run(final, inputs)
    # The batch norm is folded: one rounding to bfloat16 less, 2**-8, where 8-bit steps are as large.
    assert np.linalg.norm(received - expected) < 0.05 * np.linalg.norm(expected)


def test_two_prepared_models_train_apart():
    first, second = compiled(prepare()), prepare()
    before = state(second)
    fit(first, epochs=1)
    assert same(state(second), before)
    assert not same(state(first), before)


# Files.


@pytest.mark.parametrize("name", ["shared", "sequential"])
def test_resuming_from_a_file_is_exact(name, tmp_path):
    """Weights, grids, state of the methods and of the optimizer come from the file."""
    whole = fit(compiled(prepare(name)), name, epochs=4)
    first = compiled(prepare(name))
    head = fit(first, name, epochs=2)
    first.save(tmp_path / "half.keras")
    second = mct.keras_load_quantized_model(tmp_path / "half.keras")
    assert same(state(second), state(first))
    assert mct.plan_of(second) == mct.plan_of(first)
    tail = fit(second, name, epochs=2)
    assert np.array_equal(np.concatenate([head, tail]), whole)


RESUME = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import keras
import model_compression_toolkit as mct

folder = sys.argv[2]
with np.load(f"{folder}/task.npz") as task:
    inputs, targets = task["inputs"], task["targets"]
model = mct.keras_load_quantized_model(f"{folder}/half.keras")
history = model.fit(inputs, targets, epochs=2, batch_size=8, shuffle=False, verbose=0)
state = {f"state_{i}": value for i, value in enumerate(model.get_weights())}
np.savez(f"{folder}/resumed.npz", losses=history.history["loss"], **state)
"""


def test_training_resumes_exactly_in_a_new_process(tmp_path):
    """With a schedule, Adam's moments and a method that counts its steps."""
    config = mct.QATConfig("GRADUAL", "LSQ", weight_quantizer_params_override={"start": 2, "end": 12})
    inputs, targets = task()
    quantization = mct.QuantizationConfig.from_bits("w4a4")
    schedule = keras.optimizers.schedules.CosineDecay(1e-2, 16)
    model = compiled(mct.prepare_qat(built("shared")[0], inputs, quantization, config), keras.optimizers.Adam(schedule))
    fit(model, epochs=2)
    model.save(tmp_path / "half.keras")
    np.savez(tmp_path / "task.npz", inputs=inputs, targets=targets)
    run_process(RESUME, tmp_path)
    losses = fit(model, epochs=2)
    with np.load(tmp_path / "resumed.npz") as resumed:
        assert np.array_equal(resumed["losses"], losses)
        assert same([resumed[f"state_{i}"] for i in range(len(resumed.files) - 1)], state(model))
    steps = [int(ops.convert_to_numpy(v).ravel()[0]) for v in model.variables if v.name.endswith("step")]
    # A layer that is called twice counts twice.
    assert min(steps) == 16


def test_weights_alone_go_through_a_file(tmp_path):
    trained = compiled(prepare())
    fit(trained, epochs=1)
    trained.save_weights(tmp_path / "state.weights.h5")
    fresh = prepare()
    fresh.load_weights(tmp_path / "state.weights.h5")
    assert same(state(fresh), state(trained))
    inputs, _ = task()
    assert np.array_equal(run(mct.finalize(fresh), inputs), run(trained, inputs))


def run_process(code, folder, *arguments):
    """Run `code` in a new process: where this project's models are, the folder of its files, its arguments."""
    process = subprocess.run(  # our own code
        [sys.executable, "-c", code, str(Path(keras_models.__file__).parent), str(folder), *arguments],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr


LOADER = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from keras_models import built, run
import model_compression_toolkit as mct
folder, results = sys.argv[2], {}
for name in sys.argv[3:]:
    _, inputs = built(name)
    prepared = mct.keras_load_quantized_model(f"{folder}/{name}_prepared.keras")
    final = mct.keras_load_quantized_model(f"{folder}/{name}_final.keras")
    results[f"{name}_prepared"], results[f"{name}_final"] = run(prepared, inputs), run(final, inputs)
    results[f"{name}_finalized"] = run(mct.finalize(prepared), inputs)
    assert len(mct.plan_of(final).quantized()) == len(mct.plan_of(prepared).quantized())
np.savez(f"{folder}/outputs.npz", **results)
"""


def test_a_new_process_computes_bit_for_bit_what_this_one_does(tmp_path):
    expected = {}
    for name in ("residual", "nested", "dictionaries"):
        _, inputs = built(name)
        prepared = prepare(name)
        final = mct.finalize(prepared)
        prepared.save(tmp_path / f"{name}_prepared.keras")
        final.save(tmp_path / f"{name}_final.keras")
        outputs = run(prepared, inputs), run(final, inputs), run(final, inputs)
        expected |= dict(zip((f"{name}_{step}" for step in ("prepared", "final", "finalized")), outputs, strict=True))
    run_process(LOADER, tmp_path, "residual", "nested", "dictionaries")
    with np.load(tmp_path / "outputs.npz") as received:
        assert set(received) == set(expected)
        for name, values in expected.items():
            assert np.array_equal(received[name], values), name


@pytest.mark.parametrize("name", ["residual", "recurrent", "dictionaries"])
@pytest.mark.parametrize("step", ["prepared", "final"])
def test_models_survive_their_files_in_this_process(name, step, tmp_path):
    _, inputs = built(name)
    model = prepare(name) if step == "prepared" else mct.finalize(prepare(name))
    model.save(tmp_path / "model.keras")
    for load in (mct.keras_load_quantized_model, keras.saving.load_model):
        loaded = load(tmp_path / "model.keras")
        assert np.array_equal(run(loaded, inputs), run(model, inputs))
        assert same(state(loaded), state(model))
        if load is mct.keras_load_quantized_model:
            assert mct.plan_of(loaded) == mct.plan_of(model)
            assert names_of(loaded) == names_of(model)


# Descriptions and copies.


@pytest.mark.parametrize("step", ["quantized", "prepared", "final"])
def test_summary_configuration_and_clone_of_a_model(step):
    model, inputs = built("residual")
    ours = mct.quantize(model, inputs) if step == "quantized" else prepare("residual")
    ours = mct.finalize(ours) if step == "final" else ours
    lines = []
    ours.summary(line_length=250, print_fn=lambda line, **_: lines.append(line))
    text = "\n".join(lines)
    assert all(layer.name in text for layer in ours.layers)
    again = keras.Model.from_config(ours.get_config())
    again.set_weights(ours.get_weights())
    assert np.array_equal(run(again, inputs), run(ours, inputs))
    clone = keras.models.clone_model(ours)
    clone.set_weights(ours.get_weights())
    assert np.array_equal(run(clone, inputs), run(ours, inputs))
    assert not {id(weight) for weight in clone.weights} & {id(weight) for weight in ours.weights}


copies = pytest.mark.parametrize(
    "copied",
    [
        pytest.param(copy.deepcopy, id="deepcopy"),
        pytest.param(lambda model: pickle.loads(pickle.dumps(model)), id="pickle"),
    ],
)


@copies
def test_a_copy_keeps_its_plan_and_is_finalized_as_the_original(copied):
    inputs, _ = task()
    model = prepare()
    again = copied(model)
    assert mct.plan_of(again) == mct.plan_of(model)
    assert np.array_equal(run(mct.finalize(again), inputs), run(mct.finalize(model), inputs))


@pytest.mark.parametrize("step", ["prepared", "final"])
@pytest.mark.parametrize("after_training", [False, True])
@copies
def test_copies_compute_the_same_and_share_nothing(step, after_training, copied):
    inputs, targets = task()
    model = prepare()
    if after_training:
        model.compile(keras.optimizers.Adam(1e-2), "mse", run_eagerly=BACKEND == "tensorflow")
        model.train_on_batch(inputs, targets)
    model = model if step == "prepared" else mct.finalize(model)
    before = state(model)
    again = copied(model)
    assert np.array_equal(run(again, inputs), run(model, inputs))
    assert not {id(weight) for weight in again.weights} & {id(weight) for weight in model.weights}
    for variable in again.variables:
        variable.assign(np.zeros(variable.shape, variable.dtype))
    assert same(state(model), before)
    assert not np.array_equal(run(again, inputs), run(model, inputs))


@pytest.mark.parametrize("step", ["quantized", "prepared", "final"])
def test_parts_of_a_model_can_be_looked_at(step):
    model, inputs = built("residual")
    ours = mct.quantize(model, inputs) if step == "quantized" else prepare("residual")
    ours = mct.finalize(ours) if step == "final" else ours
    for name in ("stem_conv", "stem_relu", "relu_activation_holder_quantizer", "pool"):
        part = keras.Model(ours.inputs[0], ours.get_layer(name).output)
        assert part(inputs).shape[0] == len(inputs)


def test_random_layers_work_in_training_only():
    prepared = prepare("dropout")
    _, data = built("dropout")
    assert np.array_equal(run(prepared, data), run(prepared, data))
    assert not np.array_equal(run(prepared, data, training=True), run(prepared, data, training=True))


def test_a_batch_of_another_size_is_one_too():
    prepared = prepare()
    data = random(5, 4, seed=8)
    single = np.concatenate([run(prepared, data[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(single, run(prepared, data), rtol=1e-5, atol=1e-5)


# What is deployed.


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """A network, trained and finalized at 4 and at 8 bits, as ONNX, with what verification said."""
    pytest.importorskip("onnxruntime")
    folder, found = tmp_path_factory.mktemp("deployed"), {}
    model, inputs = built("residual")
    for bits in (4, 8):
        config = mct.QuantizationConfig.from_bits(f"w{bits}a8", first_last_bits=None)
        ready = mct.prepare_qat(model, inputs, config)
        ready.compile(keras.optimizers.SGD(0.02), "mse", run_eagerly=BACKEND == "tensorflow")
        ready.train_on_batch(inputs, np.ones((len(inputs), 3)))
        final = mct.finalize(ready)
        path = folder / f"{bits}.onnx"
        found[bits] = ready, final, path, mct.export(final, path, verify=inputs, quiet=True)
    return found


@pytest.mark.parametrize("bits", [4, 8])
def test_what_was_trained_is_what_the_file_computes(bits, deployed):
    import onnxruntime

    ready, final, path, report = deployed[bits]
    assert report.parity.passed, str(report.parity)
    different = {tensor.name: tensor.num_different for tensor in report.parity.tensors}
    assert set(different) == {tensor.name for tensor in mct.plan_of(final).quantized()}
    assert not any(different[tensor.name] for tensor in mct.plan_of(final).quantized() if tensor.is_weight)
    session = onnxruntime.InferenceSession(path)
    data = random(64, 8, 8, 3, seed=9)
    (received,) = session.run(None, {session.get_inputs()[0].name: data})
    expected = ops.convert_to_numpy(ready(data))
    # From the model in training to the file: folding and the runtime may each move a value on a tie by a step.
    assert np.linalg.norm(received - expected) < 0.02 * np.linalg.norm(expected)
    for name in ("stem_conv", "depthwise", "head"):
        trained, frozen = (model.get_layer(name).get_integer_weights()["kernel"] for model in (ready, final))
        assert np.array_equal(trained, frozen)


def test_weights_of_4_bits_take_half_the_bytes_of_those_of_8(tmp_path):
    pytest.importorskip("onnx")
    x = keras.Input((64,), name="x")
    model = keras.Model(x, layers.Dense(256, name="second")(layers.Dense(256, activation="relu", name="first")(x)))
    sizes = {}
    for bits in (4, 8):
        config = mct.QuantizationConfig.from_bits(f"w{bits}a8", first_last_bits=None)
        final = mct.finalize(mct.prepare_qat(model, random(32, 64), config))
        mct.export(final, tmp_path / f"{bits}.onnx", quiet=True)
        sizes[bits] = (tmp_path / f"{bits}.onnx").stat().st_size
    # Scales, biases and the graph, the same in both: the weights alone are 81,920 integers.
    assert sizes[8] > 81_920
    assert sizes[4] < 0.6 * sizes[8]
    assert abs((sizes[8] - sizes[4]) - 81_920 / 2) < 1000
