# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

pytest.importorskip("keras.layers")

import keras
from backend_marks import few_on_jax
from toolkit.keras_models import images, residual

import model_compression_toolkit as mct
from model_compression_toolkit.core.keras.batch_norm import LiveBatchNormalization
from model_compression_toolkit.qat.keras.fine_tuning import OneCycle

pytestmark = pytest.mark.keras


@pytest.fixture(scope="module")
def model():
    """A model whose batch norms know their inputs, as after training."""
    keras.utils.set_random_seed(0)
    model = residual()
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0
    model(images(64), training=True)
    for norm in norms:
        norm.momentum = 0.99
    return model


def prepared_of(model):
    return mct.prepare_qat(model, images(64), mct.QuantizationConfig.from_bits("w3a4"))


def distance(scores, teacher, has_labels):
    """The loss, in NumPy: of classes the divergence of softened scores, else the squared error."""
    if not has_labels:
        return np.square(scores - teacher).mean()
    found, wanted = (x / 2.0 - np.log(np.exp(x / 2.0).sum(axis=1, keepdims=True)) for x in (scores, teacher))
    return 4.0 * (np.exp(wanted) * (wanted - found)).sum(axis=1).mean()


@pytest.mark.parametrize("label_weight", few_on_jax([None, 0.0, 0.5], ["0.5"]))
def test_the_model_comes_closer_to_its_teacher(model, label_weight):
    prepared, data = mct.prepare_qat(model, images(64), mct.QuantizationConfig.from_bits("w2a2")), images(64)
    before = model.get_weights()
    teacher = model.predict(data, verbose=0)
    has_labels = label_weight is not None
    labels = teacher.argmax(axis=1) if has_labels else None
    first = distance(prepared.predict(data, verbose=0), teacher, has_labels)
    settings = mct.FineTuning(
        epochs=20, batch_size=32, learning_rate=5e-3, label_weight=label_weight or 0.0, frozen_share=0.5
    )
    losses = mct.fine_tune(prepared, model, data, labels, settings)
    assert len(losses) == 20
    last = distance(prepared.predict(data, verbose=0), teacher, has_labels)
    if label_weight == 0.5:
        # Half of the loss wants more certain classes than the teacher's.
        assert losses[-1] < losses[0]
    else:
        assert last < 0.7 * first
        # Evaluation after the last step against training before it.
        assert losses[-1] == pytest.approx(last, rel=0.3)
    norms = [layer for layer in prepared.layers if isinstance(layer, LiveBatchNormalization)]
    assert norms and all(norm.freeze_statistics for norm in norms)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_fine_tuned_model_saves_and_loads(model, tmp_path):
    prepared, data = prepared_of(model), images(32)
    mct.fine_tune(prepared, model, data, settings=mct.FineTuning(epochs=1, batch_size=16))
    prepared.save(tmp_path / "model.keras")
    loaded = mct.keras_load_quantized_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(data, verbose=0), prepared.predict(data, verbose=0))


def test_the_augmentation_sees_every_batch(model):
    shapes = []

    def augment(batch, generator):
        shapes.append(batch.shape)
        return batch + generator.normal(scale=0.01, size=batch.shape).astype(np.float32)

    settings = mct.FineTuning(epochs=2, batch_size=16, frozen_share=0.0)
    mct.fine_tune(prepared_of(model), model, images(40), settings=settings, augment=augment)
    assert shapes.count((16, 8, 8, 3)) >= 4


def test_the_schedule_is_that_of_torch():
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=50, pct_start=0.1)
    ours = OneCycle(3e-3, 50)
    for step in range(50):
        assert float(ours(step)) == pytest.approx(schedule.get_last_lr()[0], rel=1e-4, abs=1e-9)
        optimizer.step()
        if step < 49:
            schedule.step()


@pytest.mark.parametrize(
    "samples, labels, text",
    [(8, None, "at least one batch of 16 samples. Received: 8"), (32, np.zeros(5, int), "32 inputs. Received: 5")],
    ids=["samples", "labels"],
)
def test_too_little_data_is_refused(model, samples, labels, text):
    with pytest.raises(ValueError, match=text):
        mct.fine_tune(model, model, images(samples), labels, mct.FineTuning(batch_size=16))


FORMS = {
    "tensor": lambda x, y: (keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(y)),
    "array of float64": lambda x, y: (x.astype(np.float64), y.tolist()),
    "batches": lambda x, y: ([x[:40], x[40:]], y),
    "a function": lambda x, y: (lambda: iter([(x[:40], y[:40]), (x[40:], y[40:])]), None),
}


def dense_pair():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3)])
    data = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    return model, mct.prepare_qat(model, data, mct.QuantizationConfig.from_bits("w3a4")), data


@pytest.fixture(scope="module")
def expected():
    model, prepared, data = dense_pair()
    losses = mct.fine_tune(prepared, model, data, np.arange(64) % 3, mct.FineTuning(epochs=2, batch_size=16))
    return losses, prepared.get_weights()


@pytest.mark.parametrize("form", few_on_jax(list(FORMS), ["a function"]))
def test_every_form_of_data_trains_as_one_array_does(form, expected):
    model, prepared, data = dense_pair()
    inputs, labels = FORMS[form](data, np.arange(64) % 3)
    losses = mct.fine_tune(prepared, model, inputs, labels, mct.FineTuning(epochs=2, batch_size=16))
    assert losses == expected[0]
    assert all(np.array_equal(one, other) for one, other in zip(prepared.get_weights(), expected[1], strict=True))


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="its own kind of data")
def test_a_dataset_of_tensorflow_trains_as_one_array_does(expected):
    tensorflow = pytest.importorskip("tensorflow")
    model, prepared, data = dense_pair()
    batches = tensorflow.data.Dataset.from_tensor_slices((data, np.arange(64) % 3)).batch(10)
    assert mct.fine_tune(prepared, model, batches, None, mct.FineTuning(epochs=2, batch_size=16)) == expected[0]


@pytest.mark.parametrize(
    ("form", "error", "text"),
    [
        (lambda x, y: ([(x, x)], None), ValueError, "`inputs` must yield batches of one array"),
        (lambda x, y: ([(x, y)], y), ValueError, "`labels` must not be given"),
        (lambda x, y: (x, y.astype(np.float32)), ValueError, "`labels` must be classes, integers"),
        (lambda x, y: (None, None), TypeError, "`inputs` must be a tensor, an array"),
    ],
)
def test_data_of_other_forms_are_refused(form, error, text):
    model, prepared, data = dense_pair()
    before = prepared.get_weights()
    with pytest.raises(error, match=text):
        mct.fine_tune(prepared, model, *form(data, np.arange(64) % 3))
    assert all(np.array_equal(one, other) for one, other in zip(prepared.get_weights(), before, strict=True))
