# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The demonstration's network and float training in Keras."""

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

from model_compression_toolkit.cli import digits_data
from model_compression_toolkit.qat.keras.fine_tuning import OneCycle

Array = npt.NDArray[Any]

WIDTH = 32
BATCH_SIZE = 64


def load_split(seed: int) -> tuple[Array, Array, Array, Array]:
    """Training images and labels, test images and labels: 70 and 30 percent, stratified.

    Images are float32 of shape (N, 8, 8, 1) in [0, 1], labels int64 of shape (N,).
    """
    images, labels, test_images, test_labels = digits_data.load_split(seed)
    return np.moveaxis(images, 1, -1), labels, np.moveaxis(test_images, 1, -1), test_labels


def build_network() -> keras.Model:
    """A small residual network for images of shape (N, 8, 8, 1) and ten classes: 104,746 trained parameters."""

    def conv_bn(x: Any, filters: int) -> Any:
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, kernel_initializer="he_uniform")(x)
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)

    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.ReLU()(conv_bn(inputs, WIDTH))
    x = layers.ReLU()(conv_bn(x, WIDTH))
    x = layers.MaxPooling2D()(x)
    x = layers.ReLU()(conv_bn(x, 2 * WIDTH))
    y = conv_bn(layers.ReLU()(conv_bn(x, 2 * WIDTH)), 2 * WIDTH)
    x = layers.MaxPooling2D()(layers.ReLU()(layers.Add()([y, x])))
    return keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x)), name="digits")


def augment(images: Array, generator: np.random.Generator) -> Array:
    """Shift by a pixel, rotate by 12 degrees, zoom by 12 percent, shear by 0.1, each at most, at random.

    Args:
        images: float32, shape (N, H, W, 1).
        generator: of the random numbers.
    """
    count, height, width, _ = images.shape
    angle, slant, zoom_x, zoom_y, move_x, move_y = generator.uniform(-1.0, 1.0, (6, count, 1, 1))
    angle, slant = angle * math.radians(12.0), slant * 0.1
    y, x = np.meshgrid(*(np.arange(size) - (size - 1) / 2 for size in (height, width)), indexing="ij")
    zoom_x, zoom_y = 1 + zoom_x * 0.12, 1 + zoom_y * 0.12
    cos, sin = np.cos(angle), np.sin(angle)
    from_x = cos * zoom_x * x + (slant * cos - sin) * zoom_y * y + move_x + (width - 1) / 2
    from_y = sin * zoom_x * x + (slant * sin + cos) * zoom_y * y + move_y + (height - 1) / 2
    low_x, low_y = np.floor(from_x).astype(int), np.floor(from_y).astype(int)
    share_x, share_y = from_x - low_x, from_y - low_y
    result = np.zeros(images.shape[:3])
    for step_y, weight_y in ((0, 1 - share_y), (1, share_y)):
        for step_x, weight_x in ((0, 1 - share_x), (1, share_x)):
            rows, columns = low_y + step_y, low_x + step_x
            inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
            index = np.arange(count)[:, np.newaxis, np.newaxis], rows.clip(0, height - 1), columns.clip(0, width - 1)
            result += np.where(inside, images[..., 0][index], 0.0) * weight_y * weight_x
    return result[..., np.newaxis].astype(np.float32)


def train_float(images: Array, labels: Array, seed: int, epochs: int) -> keras.Model:
    """A trained network: AdamW, one cycle, label smoothing, averaged weights of the last steps."""
    keras.utils.set_random_seed(seed)
    model = build_network()
    generator = np.random.default_rng(seed)
    steps = len(images) // BATCH_SIZE
    optimizer = keras.optimizers.AdamW(
        OneCycle(3e-3, epochs * steps, rising_share=0.2), weight_decay=0.02, use_ema=True, ema_momentum=0.99
    )
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    model.compile(optimizer, loss)
    model.fit(_Augmented(images, np.eye(10, dtype=np.float32)[labels], generator), epochs=epochs, verbose=0)
    optimizer.finalize_variable_values(model.trainable_variables)
    return model


def accuracy(model: keras.Model, images: Array, labels: Array) -> float:
    """Share of correct classes in percent."""
    scores = keras.ops.convert_to_numpy(model(images, training=False))
    return 100.0 * float(np.mean(scores.argmax(axis=1) == labels))


def save_float(model: keras.Model, folder: Path) -> Path:
    """The file of the float network, without the optimizer."""
    path = folder / "float.keras"
    # A clone would be compiled as the model is, and its file would hold the optimizer.
    keras.Model(model.inputs, model.outputs).save(path)
    return path


def packed_suffix() -> str:
    """Of the small file of a frozen model."""
    return ".tflite" if keras.config.backend() == "tensorflow" else ".keras"


class _Augmented(keras.utils.PyDataset):
    """Warped batches in another order in each epoch."""

    def __init__(self, images: Array, targets: Array, generator: np.random.Generator) -> None:
        super().__init__()
        self._images, self._targets, self._generator = images, targets, generator
        self.on_epoch_end()

    def __len__(self) -> int:
        return len(self._images) // BATCH_SIZE

    def __getitem__(self, index: int) -> tuple[Array, Array]:
        chosen = self._order[index * BATCH_SIZE : (index + 1) * BATCH_SIZE]
        return self._warped[chosen], self._targets[chosen]

    def on_epoch_end(self) -> None:
        """Warp all images and draw the next order; Keras calls it."""
        self._order = self._generator.permutation(len(self._images))
        self._warped = augment(self._images, self._generator)
