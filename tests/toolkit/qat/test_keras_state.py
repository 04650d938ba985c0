# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""State of Keras models in training and frozen: files of weights, checkpoints, clones, averages of weights."""

import copy

import numpy as np
import pytest

pytest.importorskip("keras.layers")

import keras
from keras import layers
from keras_models import random, run
from keras_own_models import own

import model_compression_toolkit as mct
from model_compression_toolkit.core.keras.batch_norm import LiveBatchNormalization

pytestmark = pytest.mark.keras

# What Keras says of a file that it could not load: it then looks for the layers in its own lists, too.
retries = pytest.mark.filterwarnings("ignore:Skipping nested container")
only_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="checkpoints of TensorFlow")
DATA, TARGET = random(32, 5), random(32, 2, seed=1)


SYMMETRIC = mct.TensorConfig(4, method=mct.QuantizationMethod.SYMMETRIC)


def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((5,), name="x"),
            layers.Dense(6, use_bias=False, name="first"),
            layers.BatchNormalization(name="norm"),
            layers.Activation("sigmoid", name="act"),
            layers.Dense(2, name="second"),
        ]
    )


def bits(text, **settings):
    return mct.QuantizationConfig.from_bits(text, first_last_bits=None, **settings)


def prepared(text="w4a4", data=DATA, method="LSQ", activations=None):
    methods = mct.QATConfig(weight_training_method=method, activation_training_method=method)
    config = bits(text) if activations is None else bits(text, activations=activations)
    return mct.prepare_qat(network(), data, config, methods)


def trained():
    model = prepared()
    model.compile(keras.optimizers.SGD(0.05), "mse")
    model.fit(DATA, TARGET, epochs=2, verbose=0)
    return model


def in_file(model, other, folder):
    model.save_weights(folder / "w.weights.h5")
    other.load_weights(folder / "w.weights.h5")


def in_checkpoint(model, other, folder):
    import tensorflow as tf

    path = tf.train.Checkpoint(model=model).save(str(folder / "checkpoint"))
    tf.train.Checkpoint(model=other).restore(path).assert_existing_objects_matched()


ways = pytest.mark.parametrize("copied", [in_file, pytest.param(in_checkpoint, marks=only_tensorflow)])


@ways
def test_weights_come_with_the_scales_of_the_quantizers(copied, tmp_path):
    model, other = trained(), prepared(data=1.5 * DATA)
    assert np.abs(run(model, DATA) - run(other, DATA)).max() > 0.01
    copied(model, other, tmp_path)
    assert np.array_equal(run(model, DATA), run(other, DATA))
    for mine, theirs in zip(model.variables, other.variables, strict=True):
        assert np.array_equal(mine.numpy(), theirs.numpy()), mine.path


@ways
@retries
@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"text": "w8a4"}, "num_bits 4.*this model has num_bits 8"),
        ({"text": "w4a2"}, "num_bits 4.*this model has num_bits 2"),
        ({"data": np.abs(DATA), "activations": SYMMETRIC}, "signed True.*this model has signed False"),
        ({"method": "STE"}, "LSQ.*this model has .*STE"),
    ],
    ids=["weights", "activations", "sign", "method"],
)
def test_weights_of_other_quantizers_in_training_are_refused(copied, other, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        copied(prepared(activations=other.get("activations")), prepared(**other), tmp_path)


@ways
@retries
def test_weights_of_other_frozen_quantizers_are_refused(copied, tmp_path):
    model = mct.finalize(trained())
    copied(model, mct.finalize(trained()), tmp_path)
    with pytest.raises(ValueError, match="saved with other quantizers"):
        copied(model, mct.finalize(prepared("w2a2")), tmp_path)


@ways
@retries
@pytest.mark.parametrize("name", ["with a token", "a backbone with a step"])
def test_a_model_that_runs_its_own_code_is_saved_whole(name, copied, tmp_path):
    model, inputs = own(name)
    first = mct.prepare_qat(model, [inputs], bits("w4a4"))
    for variable in first.trainable_variables:
        variable.assign(1.1 * variable.numpy())
    second = mct.prepare_qat(model, [inputs], bits("w4a4"))
    copied(first, second, tmp_path)
    assert np.array_equal(run(first, inputs), run(second, inputs))
    with pytest.raises(ValueError, match=r"num_bits 4.*this model has num_bits 8"):
        copied(first, mct.prepare_qat(model, [inputs], bits("w8a4")), tmp_path)


def test_files_of_weights_without_grids_load_as_before(tmp_path, monkeypatch):
    """Former releases wrote none."""
    from mct_quantizers.keras.quantizer_record import RecordsQuantizers

    model, other = trained(), prepared(data=1.5 * DATA)
    monkeypatch.setattr(RecordsQuantizers, "_grids", lambda self: {})
    model.save_weights(tmp_path / "w.weights.h5")
    monkeypatch.undo()
    other.load_weights(tmp_path / "w.weights.h5")
    assert np.array_equal(run(model, DATA), run(other, DATA))


# Batch norms.


@ways
def test_frozen_statistics_stay_frozen_where_training_goes_on(copied, tmp_path):
    model, other = prepared(), prepared()
    mct.freeze_batch_norm_statistics(model)
    copied(model, other, tmp_path)
    (norm,) = [layer for layer in other._flatten_layers() if isinstance(layer, LiveBatchNormalization)]
    before = norm.moving_mean.numpy()
    other(3.0 * DATA, training=True)
    assert np.array_equal(norm.moving_mean.numpy(), before)
    copied(prepared(), other, tmp_path)
    other(3.0 * DATA, training=True)
    assert not np.array_equal(norm.moving_mean.numpy(), before)


@pytest.mark.parametrize("loaded", [copy.deepcopy, keras.models.clone_model])
def test_copies_of_a_model_keep_frozen_statistics_frozen(loaded):
    model = prepared()
    mct.freeze_batch_norm_statistics(model)
    (norm,) = [layer for layer in loaded(model)._flatten_layers() if isinstance(layer, LiveBatchNormalization)]
    assert norm.freeze_statistics


# Clones.


@pytest.mark.parametrize("make", [trained, lambda: mct.finalize(trained())], ids=["in training", "frozen"])
def test_clones_compute_the_same_with_the_weights_and_deep_copies_have_the_plan_too(make):
    model = make()
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    assert np.array_equal(run(clone, DATA), run(model, DATA))
    with pytest.raises(ValueError, match=r"`keras\.models\.clone_model` leaves the plan out: use `copy\.deepcopy`"):
        mct.plan_of(clone)
    copied = copy.deepcopy(model)
    assert np.array_equal(run(copied, DATA), run(model, DATA))
    assert mct.plan_of(copied) == mct.plan_of(model)


# Averages of weights.


@pytest.mark.parametrize("overwrites_every", [None, 1, 2])
def test_averaged_weights_are_frozen_as_they_are(overwrites_every):
    """Keras puts the averages into the variables, those of the quantizers too, at the end or every few steps."""
    model = prepared()
    optimizer = keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=overwrites_every)
    model.compile(optimizer, "mse")
    model.fit(DATA, TARGET, batch_size=8, epochs=2, verbose=0)
    # Folding rounds each product anew.
    np.testing.assert_allclose(run(mct.finalize(model), DATA), run(model, DATA), rtol=1e-4, atol=1e-5)


def test_averages_that_a_loop_puts_into_the_variables_are_frozen_as_they_are():
    model = prepared()
    optimizer = keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.5)
    optimizer.build(model.trainable_variables)
    for step in range(3):
        gradients = [random(*variable.shape, seed=step) for variable in model.trainable_variables]
        optimizer.apply_gradients(
            zip(map(keras.ops.convert_to_tensor, gradients), model.trainable_variables, strict=True)
        )
    last = run(model, DATA)
    optimizer.finalize_variable_values(model.trainable_variables)
    averaged = run(model, DATA)
    assert np.abs(averaged - last).max() > 1e-3
    np.testing.assert_allclose(run(mct.finalize(model), DATA), averaged, rtol=1e-4, atol=1e-5)
