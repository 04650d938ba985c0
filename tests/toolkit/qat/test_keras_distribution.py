# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Training on several devices with `keras.distribution`: what one device trains with the same batches."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("keras.layers")

import keras
import keras_models
from keras_models import built, run

import model_compression_toolkit as mct

BACKEND = keras.config.backend()
pytestmark = [
    pytest.mark.keras,
    pytest.mark.skipif(BACKEND != "jax", reason="Keras has data parallelism on virtual devices of the CPU with JAX"),
]

PROCESS = """
import sys
sys.path.insert(0, sys.argv[1])
import jax
import keras
import numpy as np
from keras_models import ZOO, run, worn
import model_compression_toolkit as mct

folder, results, seen = sys.argv[2], {}, []
assert len(jax.devices()) == 2


def keep(name, model):
    results.update({f"{name}/{variable.path}": np.asarray(variable.value) for variable in model.variables})


def loss(targets, outputs):
    jax.debug.inspect_array_sharding(outputs, callback=lambda sharding: seen.append(sharding))
    return keras.losses.mean_squared_error(targets, outputs)


def train(name):
    keras.utils.clear_session()  # the distribution too is forgotten
    if name == "parallel":
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(devices=keras.distribution.list_devices("cpu"))
        )
    make, inputs_of = ZOO["residual"]
    inputs = inputs_of()
    prepared = mct.prepare_qat(worn(make()), inputs, mct.QuantizationConfig.from_bits("w4a4"))
    targets = np.random.default_rng(0).normal(size=(len(inputs), 3)).astype(np.float32)
    keep(f"{name}_start", prepared)
    seen.clear()
    prepared.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
    history = prepared.fit(inputs, targets, batch_size=8, epochs=2, shuffle=False, verbose=0)
    keep(name, prepared)
    results[f"{name}_losses"] = np.array(history.history["loss"])
    results[f"{name}_devices"] = sorted({len(variable.value.sharding.device_set) for variable in prepared.variables})
    results[f"{name}_batch_axes"] = [str([*getattr(sharding, "spec", ())][:1]) for sharding in seen]
    return prepared, inputs


train("single")
prepared, inputs = train("parallel")
final = mct.finalize(prepared)
results["prepared"], results["final"] = run(prepared, inputs), run(final, inputs)
final.save(f"{folder}/final.keras")
results["loaded"] = run(mct.keras_load_quantized_model(f"{folder}/final.keras"), inputs)
np.savez(f"{folder}/results.npz", **results)
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What training gave on one device and on two, in a process that has two, and its files."""
    folder = tmp_path_factory.mktemp("distribution")
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    process = subprocess.run(  # our own code
        [sys.executable, "-c", PROCESS, str(Path(keras_models.__file__).parent), str(folder)],
        capture_output=True, text=True, check=False, timeout=300, env=environment,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    with np.load(folder / "results.npz") as found:
        return {"folder": folder, **found}


def variables(results, name):
    return {key.removeprefix(f"{name}/"): value for key, value in results.items() if key.startswith(f"{name}/")}


def test_batches_are_split_and_every_variable_is_on_every_device(results):
    assert list(results["single_devices"]) == [1]
    assert list(results["parallel_devices"]) == [2]
    assert set(results["parallel_batch_axes"]) == {"['batch']"}
    assert not set(results["single_batch_axes"]) & set(results["parallel_batch_axes"])


def test_preparing_gives_the_same_model(results):
    single, parallel = variables(results, "single_start"), variables(results, "parallel_start")
    assert single.keys() == parallel.keys()
    assert all(np.array_equal(parallel[name], value) for name, value in single.items())


def test_two_devices_train_what_one_does(results):
    """The compiler sees whole batches: the moments of batch norms and the count in LSQ's factor are of all devices."""
    np.testing.assert_allclose(results["parallel_losses"], results["single_losses"], rtol=1e-5)
    start, single, parallel = (variables(results, name) for name in ("single_start", "single", "parallel"))
    assert start.keys() == single.keys() == parallel.keys()
    for name, expected in single.items():
        # Sums of float32 in another order, over eight steps.
        bound = 2e-6 + 1e-5 * np.abs(expected)
        assert (np.abs(parallel[name] - expected) <= bound).all(), name
        if name.endswith("scale"):
            # A factor of each device's own would move scales otherwise by the square root of two.
            assert (np.abs(expected - start[name]) * (2**0.5 - 1) > 2 * bound).any(), name


def test_finalized_models_and_files_are_those_of_one_device(results):
    assert np.array_equal(results["loaded"], results["final"])
    # The batch norms are folded: rounding, and a step of 4 bits where a value was on a tie.
    assert np.linalg.norm(results["final"] - results["prepared"]) < 0.02 * np.linalg.norm(results["prepared"])
    loaded = mct.keras_load_quantized_model(results["folder"] / "final.keras")
    # This process has one device, whose compiler adds in another order.
    np.testing.assert_allclose(run(loaded, built("residual")[1]), results["final"], rtol=1e-5, atol=1e-5)
