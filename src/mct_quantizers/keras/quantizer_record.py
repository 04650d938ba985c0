# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What files of weights say of the inferable quantizers, which have no variables."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from mct_quantizers.keras.parameter_creation import CreatesParameters
from mct_quantizers.keras.quantizers.base import BaseKerasInferableQuantizer

RECORD = "inferable_quantizers"
"""Name of the record among the variables of a layer."""


class RecordsQuantizers(CreatesParameters):
    """A layer whose files of weights tell its quantizers, so that they load only where these are the same.

    A `.keras` file makes the quantizers from the configuration. A file of weights (`model.save_weights`) goes into a
    model that exists: with other thresholds its weights would silently mean something else.
    """

    def _quantizers_by_name(self) -> Mapping[str, Any]:
        raise NotImplementedError

    def save_own_variables(self, store: Any) -> None:
        """Keras calls it for each layer when it writes weights."""
        super().save_own_variables(store)
        store[RECORD] = np.frombuffer(self._record(), np.uint8)

    def load_own_variables(self, store: Any) -> None:
        """Keras calls it for each layer when it reads weights.

        Raises:
            ValueError: the weights belong to other quantizers. Keras goes on with the other layers, and raises then.
        """
        found = {name: store[name] for name in store.keys()}  # Keras's store is no mapping
        record = found.pop(RECORD, None)
        if record is not None and np.asarray(record, np.uint8).tobytes() != self._record():
            raise ValueError(
                f"The weights of layer {self.name!r} were saved with other quantizers. Load the whole model (.keras), "
                f"or quantize as it was. Received: {np.asarray(record, np.uint8).tobytes().decode(errors='replace')}; "
                f"this layer has {self._record().decode()}"
            )
        super().load_own_variables(found)

    def _record(self) -> bytes:
        configs = {
            name: quantizer.get_config()
            for name, quantizer in self._quantizers_by_name().items()
            # A trainable quantizer has variables for what it learns.
            if isinstance(quantizer, BaseKerasInferableQuantizer)
        }
        return json.dumps(configs, sort_keys=True, default=str).encode()
