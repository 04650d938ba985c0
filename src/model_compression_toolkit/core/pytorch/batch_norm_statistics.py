# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""New running statistics for the batch norms of a model in quantization-aware training."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from model_compression_toolkit.core.pytorch.batch_norm import LiveBatchNorm
from model_compression_toolkit.core.pytorch.modes import preserved_modes


@torch.no_grad()
def reestimate_batch_norm_statistics(model: nn.Module, batches: Iterable[Any]) -> None:
    """Replace the running statistics of every batch norm by the averages over `batches`.

    When the model fails on a batch, the former statistics stay.

    Args:
        model: a model in quantization-aware training; its mode is restored.
        batches: inputs of the model: tensors, tuples of arguments, or dictionaries of arguments by name.

    Raises:
        ValueError: `batches` is empty.
    """
    stream = iter(batches)
    first = next(stream, None)
    if first is None:
        raise ValueError("`batches` must hold at least one batch. Received: none")
    norms = [module.norm for module in model.modules() if isinstance(module, LiveBatchNorm)]
    former = [(norm.momentum, {name: buffer.clone() for name, buffer in norm.named_buffers()}) for norm in norms]
    with preserved_modes(model):
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            # None: a cumulative average instead of an exponential one.
            norm.momentum = None
            norm.train()
        try:
            for batch in itertools.chain([first], stream):
                _run(model, batch)
        except BaseException:
            for norm, (_, buffers) in zip(norms, former, strict=True):
                for name, buffer in norm.named_buffers():
                    buffer.copy_(buffers[name])
            raise
        finally:
            for norm, (momentum, _) in zip(norms, former, strict=True):
                norm.momentum = momentum


def _run(model: nn.Module, batch: Any) -> None:
    if isinstance(batch, Mapping):
        model(**batch)
    else:
        model(*(batch if isinstance(batch, (tuple, list)) else (batch,)))
