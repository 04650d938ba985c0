# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The wrapper of layers in training."""

import keras

from mct_quantizers.keras.quantize_wrapper import KerasQuantizationWrapper
from model_compression_toolkit.core.keras.package import PACKAGE

__all__ = ["KerasTrainableQuantizationWrapper"]


@keras.saving.register_keras_serializable(PACKAGE)
class KerasTrainableQuantizationWrapper(KerasQuantizationWrapper):
    """A `KerasQuantizationWrapper` for quantizers in training, which converts to a plain one for inference."""

    def convert_to_inferable_quantizers(self) -> KerasQuantizationWrapper | None:
        """Replace each trainable quantizer by what it froze to.

        Returns:
            A plain wrapper around a copy of the layer, with its weights and without the variables of the trainable
            quantizers, not trainable; None where all quantizers are inferable already.
        """
        converted = self._converted(KerasQuantizationWrapper)
        if converted is not None:
            converted.trainable = False
        return converted
