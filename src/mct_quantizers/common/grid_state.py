# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What of a quantizer no scale tells, as a vector of numbers for its state: widths, ends, sign, method, training.

A scale fits every grid of its shape. Without these numbers a state loads into a model of other widths or signs, which
then computes something else without a word.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.quant_info import QuantizationMethod
from mct_quantizers.common.quant_params import QuantParams, integer_range

__all__ = ["GRID_LENGTH", "QUANTIZATION_GRID", "GridDescription", "grid_mismatch"]

QUANTIZATION_GRID = "quantization_grid"
"""Name of the vector in the state of a quantizer."""

LAYOUT = 1
"""First number of the vector; another one means another order of the rest."""

NAME_BYTES = 24
_FIELDS = 10
_CHECKSUM_BYTES = 4

GRID_LENGTH = 40
"""Length of the vector; what is not used is zero."""


@dataclass(frozen=True, slots=True)
class GridDescription:
    """The grid or table of a quantizer, without what is learned, and how it is trained.

    Attributes:
        num_bits: width of the integer, or of the index into a table.
        quant_min: smallest integer; of a table the smallest one a level may be.
        quant_max: largest integer, likewise.
        method: the kind of grid.
        axis: axis along which the parameters vary, None per tensor.
        lut_values_bitwidth: width of the levels of a table, 0 without one.
        trained_by: name of the training method, or of the user's own class; empty for inference.
        freeze_quant_params: whether training leaves the parameters of the quantization as they are.
        settings: text of whatever else the result depends on.
    """

    num_bits: int
    quant_min: int
    quant_max: int
    method: QuantizationMethod
    axis: int | None = None
    lut_values_bitwidth: int = 0
    trained_by: str = ""
    freeze_quant_params: bool = False
    settings: str = ""

    @classmethod
    def of_params(
        cls,
        params: QuantParams | LookupTable,
        method: QuantizationMethod,
        trained_by: str = "",
        freeze_quant_params: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> Self:
        """The description of a quantizer with these parameters.

        Args:
            params: the grid or table.
            method: the kind of grid.
            trained_by: name of the training method, or of the user's own class; empty for inference.
            freeze_quant_params: whether training leaves the parameters of the quantization as they are.
            settings: the settings of the training method.
        """
        words = dict(settings or {})
        if isinstance(params, LookupTable):
            low, high = integer_range(params.lut_values_bitwidth, params.signed)
            words["eps"], bitwidth = params.eps, params.lut_values_bitwidth
        else:
            low, high, bitwidth = params.quant_min, params.quant_max, 0
        text = json.dumps(words, sort_keys=True, default=_plain) if words else ""
        return cls(
            params.num_bits, low, high, method, params.axis, bitwidth, trained_by, bool(freeze_quant_params), text
        )

    def to_vector(self) -> npt.NDArray[np.float32]:
        """The numbers for a state: float32, shape (GRID_LENGTH,), integers of at most 256.

        Floating point, because averages of models truncate integers; small, because half precision holds such exactly.
        """
        low, high = integer_range(self.lut_values_bitwidth or self.num_bits, self.quant_min < 0)
        numbers = [
            LAYOUT,
            self.num_bits,
            self.quant_min < 0,
            # How far the ends are inside those of all integers of the width.
            self.quant_min - low,
            high - self.quant_max,
            self.method.value,
            _axis_number(self.axis),
            self.lut_values_bitwidth,
            bool(self.trained_by),
            self.freeze_quant_params,
        ]
        name = self.trained_by.encode()[:NAME_BYTES].ljust(NAME_BYTES, b"\0")
        checksum = zlib.crc32(f"{self.trained_by}\n{self.settings}".encode()).to_bytes(_CHECKSUM_BYTES, "little")
        vector = np.zeros(GRID_LENGTH, np.float32)
        content = [*numbers, *name, *checksum]
        vector[: len(content)] = content
        return vector

    def differences(self, stored: npt.ArrayLike) -> list[tuple[str, str, str]]:
        """In what a stored vector differs: the word, its value there, and its value here.

        Args:
            stored: numbers of a state, shape (GRID_LENGTH,); averages of equal vectors may be a little off.
        """
        theirs, ours = _whole(stored), _whole(self.to_vector())
        if (theirs == ours).all():
            return []
        if theirs[0] != LAYOUT:
            # Of a later version, or no grid at all.
            return [("a description of form", str(theirs[0]), str(LAYOUT))]
        their_words, our_words = _words(theirs), _words(ours)
        found = [(word, their_words[word], value) for word, value in our_words.items() if their_words[word] != value]
        return found or [("settings of the training method or of the table", "others", self.settings or "none")]


def grid_mismatch(name: str, description: GridDescription, stored: npt.ArrayLike) -> str:
    """The text of the error for a state of another grid; empty where it is of the same one.

    Args:
        name: the quantizer, as the state calls it.
        description: of the quantizer that the state is loaded into.
        stored: the numbers in the state, shape (GRID_LENGTH,).
    """
    differences = description.differences(stored)
    if not differences:
        return ""
    theirs = ", ".join(f"{word} {value}" for word, value, _ in differences)
    ours = ", ".join(f"{word} {value}" for word, _, value in differences)
    return (
        f"{name}: the state is of a quantizer with {theirs}; this model has {ours}. Make the model as the saved one "
        "was made: the same configuration, training methods and settings, and calibration data of the same sign"
    )


def _words(numbers: npt.NDArray[np.int64]) -> dict[str, str]:
    """The numbers of a vector in the words of a user."""
    num_bits, signed, low_gap, high_gap, method, axis, bitwidth, trained, frozen = (int(n) for n in numbers[1:_FIELDS])
    low, high = integer_range(bitwidth or num_bits, bool(signed)) if 0 < (bitwidth or num_bits) <= 32 else (0, 0)
    name = bytes(int(n) % 256 for n in numbers[_FIELDS : _FIELDS + NAME_BYTES]).rstrip(b"\0").decode(errors="replace")
    known = {item.value: item.name for item in QuantizationMethod}
    return {
        "num_bits": str(num_bits),
        "signed": str(bool(signed)),
        "quant_min": str(low + low_gap),
        "quant_max": str(high - high_gap),
        "method": known.get(method, str(method)),
        "axis": "None" if axis == 0 else str(axis - 1 if axis > 0 else axis),
        "lut_values_bitwidth": str(bitwidth or "none"),
        "training": name if trained else "none (inferable)",
        "freeze_quant_params": str(bool(frozen)),
    }


def _axis_number(axis: int | None) -> int:
    # Zero is for none.
    return 0 if axis is None else axis + 1 if axis >= 0 else axis


def _whole(numbers: npt.ArrayLike) -> npt.NDArray[np.int64]:
    rounded = np.rint(np.nan_to_num(np.asarray(numbers, dtype=np.float64)))
    return np.clip(rounded, -(2**31), 2**31).astype(np.int64).reshape(-1)


def _plain(value: Any) -> Any:
    """What JSON holds in the place of a setting; an object counts by its class, because its text may be of one run."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return getattr(value, "name", None) or type(value).__qualname__
