# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from mct_quantizers import (
    KerasActivationQuantizationHolder,
    KerasQuantizationWrapper,
    QuantizationMethod,
    QuantizationTarget,
    keras_load_quantized_model,
    keras_quantizers,
    mark_quantizer,
)
from mct_quantizers.keras.metadata import MetadataLayer, add_metadata, get_metadata

X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    x = KerasActivationQuantizationHolder(keras_quantizers.ActivationSymmetricInferableQuantizer(5, [2.0], True))(
        inputs
    )
    wrapper = KerasQuantizationWrapper(
        keras.layers.Dense(3), {"kernel": keras_quantizers.WeightsPOTInferableQuantizer(3, [1.0, 0.5, 2.0], True, -1)}
    )
    return keras.Model(inputs, wrapper(x))


@pytest.fixture
def saved(tmp_path) -> Path:
    path = tmp_path / "network.keras"
    network().save(path)
    return path


def parts_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_parts(path: Path, parts: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def test_the_loaded_model_computes_the_same(saved):
    model = keras_load_quantized_model(saved)
    np.testing.assert_array_equal(model.predict(X, verbose=0), network().predict(X, verbose=0))
    assert not hasattr(model, "metadata")


def test_keras_loads_it_in_a_new_process_without_custom_objects(saved, tmp_path):
    np.save(tmp_path / "x.npy", X)
    code = (
        "import numpy as np, keras, mct_quantizers.keras\n"
        f"model = keras.saving.load_model({str(saved)!r}, safe_mode=True)\n"
        f"np.save({str(tmp_path / 'y.npy')!r}, model.predict(np.load({str(tmp_path / 'x.npy')!r}), verbose=0))\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert process.returncode == 0, process.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), network().predict(X, verbose=0))


def test_compiled_model_is_compiled_again(saved, tmp_path):
    model = network()
    model.compile("sgd", "mse")
    model.save(tmp_path / "compiled.keras")
    assert keras_load_quantized_model(tmp_path / "compiled.keras").compiled
    assert not keras_load_quantized_model(tmp_path / "compiled.keras", compile=False).compiled


def test_quantizer_of_the_users_own_is_found_by_its_name(tmp_path):
    @mark_quantizer(QuantizationTarget.Activation, [QuantizationMethod.UNIFORM], "a task of the user's own")
    class Halving(keras_quantizers.BaseKerasInferableQuantizer):
        def __call__(self, inputs):
            return inputs / 2

        def get_config(self):
            return {}

    inputs = keras.Input((4,))
    keras.Model(inputs, KerasActivationQuantizationHolder(Halving())(inputs)).save(tmp_path / "own.keras")
    model = keras_load_quantized_model(tmp_path / "own.keras")
    np.testing.assert_array_equal(model.predict(X, verbose=0), X / 2)


def test_custom_objects_come_before_classes_found_by_name(tmp_path):
    class Halving(keras_quantizers.BaseKerasInferableQuantizer):
        def __call__(self, inputs):
            return inputs / 2

        def get_config(self):
            return {}

    class Zero(Halving):
        def __call__(self, inputs):
            return inputs * 0

    inputs = keras.Input((4,))
    keras.Model(inputs, KerasActivationQuantizationHolder(Halving())(inputs)).save(tmp_path / "own.keras")
    model = keras_load_quantized_model(tmp_path / "own.keras", custom_objects={"Halving": Zero})
    np.testing.assert_array_equal(model.predict(X, verbose=0), X * 0)


def test_layer_of_the_users_own_inside_a_wrapper_is_found_too(tmp_path):
    class Twice(keras.layers.Dense):
        def call(self, inputs):
            return 2 * super().call(inputs)

    inputs = keras.Input((4,))
    quantizer = keras_quantizers.WeightsPOTInferableQuantizer(3, 1.0, False)
    model = keras.Model(inputs, KerasQuantizationWrapper(Twice(3), {"kernel": quantizer})(inputs))
    model.save(tmp_path / "twice.keras")
    with pytest.raises(ValueError, match="Could not locate class 'Twice'"):
        keras_load_quantized_model(tmp_path / "twice.keras")
    loaded = keras_load_quantized_model(tmp_path / "twice.keras", custom_objects={"Twice": Twice})
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))


# Files of weights


def test_weights_load_where_the_quantizers_are_the_same(tmp_path):
    model, other = network(), network()
    model.layers[-1].layer.kernel.assign(np.random.default_rng(1).uniform(-1, 1, (4, 3)))
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(other.predict(X, verbose=0), model.predict(X, verbose=0))


def with_quantizers(activation_threshold: float, weight_threshold: float) -> keras.Model:
    inputs = keras.Input((4,))
    x = KerasActivationQuantizationHolder(
        keras_quantizers.ActivationSymmetricInferableQuantizer(5, [activation_threshold], True)
    )(inputs)
    quantizer = keras_quantizers.WeightsSymmetricInferableQuantizer(3, [weight_threshold], False)
    return keras.Model(inputs, KerasQuantizationWrapper(keras.layers.Dense(3), {"kernel": quantizer})(x))


# Before it raises, Keras looks for a layer that failed in its own lists too, and warns that the file has none of these.
@pytest.mark.filterwarnings("ignore:Skipping nested container")
@pytest.mark.parametrize("thresholds", [(1.0, 0.5), (2.0, 1.0)])
def test_weights_of_other_quantizers_are_refused(tmp_path, thresholds):
    with_quantizers(1.0, 1.0).save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(ValueError, match="were saved with other quantizers"):
        with_quantizers(*thresholds).load_weights(tmp_path / "model.weights.h5")


def test_weights_that_were_refused_stay_refused_under_the_other_names_of_a_layer(tmp_path):
    """Keras tries a layer that failed again under each of its names, where the file has nothing: that is no success."""

    class Named(keras.Model):
        def __init__(self, threshold):
            super().__init__()
            quantizer = keras_quantizers.ActivationSymmetricInferableQuantizer(5, [threshold], True)
            self.first = self.second = KerasActivationQuantizationHolder(quantizer)

        def call(self, inputs):
            return self.first(inputs)

    models = [Named(threshold) for threshold in (1.0, 2.0)]
    for model in models:
        model(keras.ops.ones((2, 4)))
    models[0].save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(ValueError, match="were saved with other quantizers"):
        models[1].load_weights(tmp_path / "model.weights.h5")


# Metadata


def test_metadata_travel_with_the_model(tmp_path):
    given = {"numbers": [1, 2.5], "inside": {"text": "ä"}}
    model = add_metadata(network(), given)
    assert get_metadata(model)["inside"] == {"text": "ä"}
    model.save(tmp_path / "with.keras")
    loaded = keras_load_quantized_model(tmp_path / "with.keras")
    assert get_metadata(loaded) == get_metadata(model)
    assert get_metadata(loaded)["framework_version"] == keras.__version__
    assert isinstance(loaded.metadata_layer, MetadataLayer)
    loaded.save(tmp_path / "again.keras")
    assert get_metadata(keras_load_quantized_model(tmp_path / "again.keras")) == get_metadata(model)


def test_metadata_are_replaced(tmp_path):
    model = add_metadata(add_metadata(network(), {"first": 1}), {"second": 2})
    model.save(tmp_path / "replaced.keras")
    metadata = get_metadata(keras_load_quantized_model(tmp_path / "replaced.keras"))
    assert "first" not in metadata
    assert metadata["second"] == 2


def test_metadata_layer_is_the_identity_and_has_a_configuration():
    layer = MetadataLayer({"a": 1})
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer(X)), X)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.metadata == layer.metadata


def test_model_without_metadata_has_none():
    assert get_metadata(network()) == {}


@pytest.mark.parametrize(("model", "metadata"), [(None, {}), (X, {}), ("network", "text"), ("network", {1: 2})])
def test_wrong_metadata_are_refused_and_change_nothing(model, metadata):
    model = network() if isinstance(model, str) else model
    with pytest.raises(TypeError, match=r"`(model|metadata)`"):
        add_metadata(model, metadata)
    assert not hasattr(model, "metadata")


# Bad files


def test_lambda_layer_is_refused(tmp_path):
    inputs = keras.Input((4,))
    path = tmp_path / "lambda.keras"
    keras.Model(inputs, keras.layers.Lambda(lambda x: x * 2, output_shape=(4,))(inputs)).save(path)
    with pytest.raises(ValueError, match=r"cannot be loaded.*[Ll]ambda"):
        keras_load_quantized_model(path)


def with_config(path: Path, old: str, new: str) -> Path:
    parts = parts_of(path)
    text = parts["config.json"].decode()
    assert old in text
    return write_parts(path, {**parts, "config.json": text.replace(old, new).encode()})


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("mct_quantizers>WeightsPOTInferableQuantizer", "mct_quantizers>Nobody", "Could not locate class"),
        ('"class_name": "Functional"', '"class_name": "__lambda__"', "cannot be loaded"),
        ('"num_bits": 3', '"num_bits": 99', "`num_bits` must be from 1 to 16"),
        ('"threshold": [1.0, 0.5, 2.0]', '"threshold": [1.0, 0.3, 2.0]', "power of two"),
        ('"threshold": [1.0, 0.5, 2.0]', '"threshold": [1.0]', "channels"),
        ('"weights_quantizer": {"kernel"', '"weights_quantizer": {"gain"', "must name variables"),
    ],
)
def test_configuration_that_makes_no_sense_is_named(saved, old, new, match):
    with pytest.raises(ValueError, match=f"(?s){saved.name}.*{match}"):
        model = keras_load_quantized_model(with_config(saved, old, new))
        model.predict(X, verbose=0)


def test_function_layer_takes_no_function_but_those_of_keras_or_the_user(tmp_path):
    inputs = keras.Input((4,))
    wrapper = KerasQuantizationWrapper(
        keras.ops.add, {1: keras_quantizers.WeightsPOTInferableQuantizer(4, 1.0, False)}, {1: X[0] / 4}
    )
    model = keras.Model(inputs, wrapper(inputs))
    path = tmp_path / "function.keras"
    model.save(path)
    np.testing.assert_array_equal(keras_load_quantized_model(path).predict(X, verbose=0), model.predict(X, verbose=0))
    for name in ("os.system", "keras.ops.nothing", "keras.utils.get_file", "builtins.eval"):
        parts = parts_of(path)
        config = parts["config.json"].decode().replace('"keras.ops.add"', json.dumps(name))
        changed = write_parts(tmp_path / "changed.keras", {**parts, "config.json": config.encode()})
        with pytest.raises(ValueError, match=r"`function` must be a function of `keras.ops` or registered"):
            keras_load_quantized_model(changed)


def test_function_without_a_name_of_its_own_cannot_be_saved(tmp_path):
    inputs = keras.Input((4,))
    quantizer = keras_quantizers.WeightsPOTInferableQuantizer(4, 1.0, False)
    wrapper = KerasQuantizationWrapper(lambda x, y: x + y, {1: quantizer}, {1: X[0]})
    model = keras.Model(inputs, wrapper(inputs))
    with pytest.raises(ValueError, match="saved by its name"):
        model.save(tmp_path / "lambda.keras")


def test_other_files_are_refused_by_name(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.keras"):
        keras_load_quantized_model(tmp_path / "nowhere.keras")
    with pytest.raises(IsADirectoryError, match="`filepath` must name a file"):
        keras_load_quantized_model(tmp_path)
    other = tmp_path / "network.h5"
    other.write_bytes(saved.read_bytes())
    with pytest.raises(ValueError, match=r"ending with '\.keras'.*network\.h5.*save it as \.keras"):
        keras_load_quantized_model(other)
    text = tmp_path / "text.keras"
    text.write_text("text")
    with pytest.raises(ValueError, match=r"ending with '\.keras'.*text\.keras"):
        keras_load_quantized_model(text)
    with pytest.raises(ValueError, match="`options` must be None"):
        keras_load_quantized_model(saved, options=object())


def test_a_thousand_damaged_files_give_a_named_error_or_the_same_model(saved, tmp_path):
    generator = np.random.default_rng(7)
    whole = saved.read_bytes()
    path = tmp_path / "damaged.keras"
    refused = 0
    for number in range(1000):
        content = bytearray(whole)
        kind = number % 4
        position = int(generator.integers(len(content)))
        if kind == 0:
            content[position] ^= 1 << int(generator.integers(8))
        elif kind == 1:
            del content[position:]
        elif kind == 2:
            content[position:position] = generator.bytes(int(generator.integers(1, 20)))
        else:
            content[position : position + 16] = generator.bytes(16)
        path.write_bytes(content)
        try:
            keras_load_quantized_model(path)
        except (ValueError, OSError) as error:
            assert "damaged.keras" in str(error)
            refused += 1
    # Some bytes of an archive say nothing, such as the time of its parts.
    assert refused > 700


def test_damaged_parts_inside_a_whole_archive_give_a_named_error(saved, tmp_path):
    """Behind the checksums of the archive: what somebody made on purpose."""
    generator = np.random.default_rng(8)
    parts = parts_of(saved)
    refused = 0
    for number in range(60):
        name = ("config.json", "model.weights.h5", "metadata.json")[number % 3]
        content = bytearray(parts[name])
        for position in generator.integers(len(content), size=3):
            content[int(position)] = int(generator.integers(256))
        path = write_parts(tmp_path / "damaged.keras", {**parts, name: bytes(content)})
        try:
            keras_load_quantized_model(path)
        except (ValueError, OSError) as error:
            assert "damaged.keras" in str(error)
            refused += 1
    assert refused > 10


def test_interrupted_save_is_seen_when_loading(saved):
    archive = io.BytesIO(saved.read_bytes())
    saved.write_bytes(archive.getvalue()[: len(archive.getvalue()) // 2])
    with pytest.raises(ValueError, match=saved.name):
        keras_load_quantized_model(saved)


def test_archives_and_arrays_that_grow_are_refused_before_they_are_read(saved, tmp_path):
    """A config.json and an array of zeros, both compressed to a thousandth."""
    h5py = pytest.importorskip("h5py")
    bomb, arrays = tmp_path / "bomb.keras", tmp_path / "model.weights.h5"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b" " * 2**25)
    with pytest.raises(ValueError, match="which declares 33,554,432 bytes"):
        keras_load_quantized_model(bomb)
    with h5py.File(arrays, "w") as file:
        file.create_dataset("zeros", (2**24,), "f4", fillvalue=0.0, chunks=(2**20,), compression="gzip")[:] = 0
    with zipfile.ZipFile(bomb, "w") as archive:
        archive.write(arrays, arrays.name)
    with pytest.raises(ValueError, match=r"must hold at most .* which declares 67,108,864 bytes"):
        keras_load_quantized_model(bomb)


def test_a_pipe_is_refused(tmp_path):
    path = tmp_path / "model.keras"
    os.mkfifo(path)
    with pytest.raises(OSError, match="must name a regular file"):
        keras_load_quantized_model(path)
