# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Metadata of Keras models."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import keras

from mct_quantizers.common.constants import FRAMEWORK_VERSION
from mct_quantizers.common.metadata import verify_and_init_metadata
from mct_quantizers.common.untrusted import parse_json
from mct_quantizers.keras.quantizers.base import PACKAGE

__all__ = ["METADATA_FILE", "MetadataLayer", "ModelWithMetadata", "add_metadata", "get_metadata", "keep_metadata"]

METADATA_FILE = "mct_metadata.json"
"""Name of the file inside a `.keras` archive."""


@keras.saving.register_keras_serializable(PACKAGE)
class MetadataLayer(keras.layers.Layer):
    """Carries metadata into a `.keras` file, as a file of its own in the archive, and computes nothing.

    Args:
        metadata: see `verify_and_init_metadata`.
        **kwargs: arguments of every Keras layer.
    """

    def __init__(self, metadata: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.metadata = verify_and_init_metadata(dict(metadata or {}))

    def call(self, inputs: Any) -> Any:
        """`inputs`."""
        return inputs

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "metadata": dict(self.metadata)}

    def save_assets(self, dir_path: str) -> None:
        """Write the metadata beside the weights; Keras calls it."""
        Path(dir_path, METADATA_FILE).write_text(json.dumps(self.metadata, default=str), encoding="utf-8")

    def load_assets(self, dir_path: str) -> None:
        """Read what `save_assets` wrote; Keras calls it."""
        self.metadata = parse_json(Path(dir_path, METADATA_FILE).read_text(encoding="utf-8"))


@keras.saving.register_keras_serializable(PACKAGE)
class ModelWithMetadata(keras.Model):
    """A functional model whose configuration holds its metadata: copies and `keras.saving.load_model` keep them."""

    def get_config(self) -> dict[str, Any]:
        """The functional model and the metadata."""
        return {**super().get_config(), "metadata": get_metadata(self)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Self:
        """The model whose `get_config` was `config`."""
        config = dict(config)
        metadata = config.pop("metadata", None)
        model: Self = super().from_config(config, custom_objects)
        if metadata:
            keep_metadata(model, metadata)
        return model


def add_metadata(model: keras.Model, metadata: dict[str, Any] | None) -> keras.Model:
    """Set `model.metadata`, completed with the versions of Python, Keras and this package, and have it saved.

    Args:
        model: any Keras model; it is changed and returned. Its `.keras` file carries the metadata, and
            `keras_load_quantized_model` restores them.
        metadata: see `verify_and_init_metadata`.

    Raises:
        TypeError: `model` is no Keras model, or `metadata` no dictionary by text; nothing is changed.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {type(model).__name__}")
    verified = verify_and_init_metadata(metadata)
    verified[FRAMEWORK_VERSION] = keras.__version__
    keep_metadata(model, verified)
    return model


def get_metadata(model: keras.Model) -> dict[str, Any]:
    """What `add_metadata` set; an empty dictionary where nothing was set."""
    return dict(getattr(model, "metadata", {}))


def keep_metadata(model: keras.Model, metadata: dict[str, Any]) -> None:
    """Set `model.metadata` as they are, and have them saved."""
    layer = getattr(model, "metadata_layer", None)
    if isinstance(layer, MetadataLayer):
        layer.metadata = metadata
    else:
        model.metadata_layer = MetadataLayer(metadata)
    model.metadata = metadata
