# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What files of weights and checkpoints say of the quantizers of a layer beside their variables."""

import json
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from mct_quantizers.common.grid_state import QUANTIZATION_GRID, GridDescription, grid_mismatch
from mct_quantizers.keras.parameter_creation import CreatesParameters
from mct_quantizers.keras.quantizers.base import BaseKerasInferableQuantizer

RECORD = "inferable_quantizers"
"""Name of the record of inferable quantizers among the variables of a layer."""
_CHECKPOINTED = "quantizer_record"


class RecordsQuantizers(CreatesParameters):
    """A layer whose files of weights tell its quantizers, so that they load only where these are the same.

    A `.keras` file makes the quantizers from the configuration. A file of weights (`model.save_weights`) and a
    checkpoint of TensorFlow go into a model that exists: with other thresholds, widths or signs its weights would
    silently mean something else. Of an inferable quantizer the whole configuration is recorded, of one in training,
    which has variables for what it learns, its grid.
    """

    _load_problem = ""

    def build(self, input_shape: Any = None) -> None:
        """Have TensorFlow's checkpoints hold the record, too."""
        super().build(input_shape)
        if keras.backend.backend() == "tensorflow":
            from mct_quantizers.keras.tensorflow_checkpoint import CheckpointedRecord

            setattr(self, _CHECKPOINTED, CheckpointedRecord(self._checkpointed, self._check_checkpointed))

    def _quantizers_by_name(self) -> Mapping[str, Any]:
        raise NotImplementedError

    def save_own_variables(self, store: Any) -> None:
        """Keras calls it for each layer when it writes weights."""
        super().save_own_variables(store)
        store[RECORD] = np.frombuffer(self._record(), np.uint8)
        for name, grid in self._grids().items():
            store[_key(name)] = grid.to_vector()

    def load_own_variables(self, store: Any) -> None:
        """Keras calls it for each layer when it reads weights.

        Raises:
            ValueError: the weights belong to other quantizers. Keras goes on with the other layers, and raises then.
        """
        found = {name: store[name] for name in store.keys()}  # Keras's store is no mapping
        if not found and self._load_problem:
            # Keras tries a layer that failed once more under each other name that it has, where the file has nothing.
            raise ValueError(self._load_problem)
        record = found.pop(RECORD, None)
        grids = {name: found.pop(_key(name), None) for name in self._quantizers_by_name()}
        try:
            self._load_problem = ""
            self._check(None if record is None else np.asarray(record, np.uint8).tobytes(), grids)
        except ValueError as error:
            self._load_problem = str(error)
            raise
        super().load_own_variables(found)

    def _check(self, record: bytes | None, grids: Mapping[str, npt.ArrayLike | None]) -> None:
        """Compare what a file says of the quantizers; files of former releases say less.

        Raises:
            ValueError: it has other quantizers.
        """
        if record is not None and record != self._record():
            raise ValueError(
                f"The weights of layer {self.name!r} were saved with other quantizers. Load the whole model (.keras), "
                f"or quantize as it was. Received: {record.decode(errors='replace')}; "
                f"this layer has {self._record().decode()}"
            )
        for name, grid in self._grids().items():
            stored = grids.get(name)
            problem = "" if stored is None else grid_mismatch(f"{self.name}.{name}", grid, stored)
            if problem:
                raise ValueError(problem)

    def _grids(self) -> dict[str, GridDescription]:
        """The grid of each quantizer in training."""
        grids = {
            # A class of the user's own, with no base of ours, may have none.
            name: getattr(quantizer, "grid_description", lambda: None)()
            for name, quantizer in self._quantizers_by_name().items()
            if not isinstance(quantizer, BaseKerasInferableQuantizer)
        }
        return {name: grid for name, grid in grids.items() if grid is not None}

    def _record(self) -> bytes:
        configs = {
            name: quantizer.get_config()
            for name, quantizer in self._quantizers_by_name().items()
            # A trainable quantizer has variables for what it learns.
            if isinstance(quantizer, BaseKerasInferableQuantizer)
        }
        return json.dumps(configs, sort_keys=True, default=str).encode()

    def _checkpointed(self) -> bytes:
        grids = {name: grid.to_vector().tolist() for name, grid in self._grids().items()}
        return json.dumps({RECORD: self._record().decode(), QUANTIZATION_GRID: grids}).encode()

    def _check_checkpointed(self, text: bytes) -> None:
        stored = json.loads(text)
        self._check(stored[RECORD].encode(), stored[QUANTIZATION_GRID])


def _key(name: str) -> str:
    return f"{QUANTIZATION_GRID}_{name}"
