# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Two processes that share the parameters of a model (FSDP2, gloo, CPU) compute what one process computes."""

import subprocess
import sys
import textwrap

import pytest
import torch

NETWORK = """
import torch
from torch import nn
from mct_quantizers import PytorchActivationQuantizationHolder, PytorchQuantizationWrapper
from mct_quantizers.pytorch import quantizers as q

def network():
    torch.manual_seed(0)
    return nn.Sequential(
        PytorchActivationQuantizationHolder(q.ActivationUniformInferableQuantizer(8, -2.5, 3.0)),
        PytorchQuantizationWrapper(
            nn.Linear(6, 8), {"weight": q.WeightsSymmetricInferableQuantizer(4, [0.5] * 8, True, 0)}
        ),
        PytorchActivationQuantizationHolder(q.ActivationSymmetricInferableQuantizer(6, 2.0, True)),
        PytorchQuantizationWrapper(
            nn.Linear(8, 3), {"weight": q.WeightsLUTPOTInferableQuantizer(2, [-90, -20, 30, 100], [0.5], False)}
        ),
    )

def step(model, x):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    # A mean over the batch at hand: the processes' gradients are averaged.
    model(x).square().sum(1).mean().backward()
    optimizer.step()

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
"""

RANK = """
import os
import sys
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

torch.set_num_threads(1)
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
model = network()
for layer in model:
    if any(True for _ in layer.parameters()):
        fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
assert all(parameter.to_local().numel() < parameter.numel() for parameter in model.parameters())
for _ in range(3):
    step(model, X[rank::2])
    model.zero_grad()
outputs = model.eval()(X)
again = model(X)
assert torch.equal(outputs, again)
state = {key: getattr(value, "full_tensor", lambda value=value: value)() for key, value in model.state_dict().items()}
if rank == 0:
    torch.save({"outputs": outputs.detach(), "state": state}, f"{folder}/result.pt")
# Both are done before either leaves, and none waits for threads of gloo that Python would end in the middle of work.
dist.barrier()
dist.destroy_process_group()
os._exit(0)
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")
def test_two_sharded_processes_compute_what_one_does(tmp_path):
    script = tmp_path / "rank.py"
    script.write_text(textwrap.dedent(NETWORK + RANK))
    processes = [
        subprocess.Popen([sys.executable, script, str(rank), tmp_path], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    result = torch.load(tmp_path / "result.pt", weights_only=True)
    names: dict = {}
    exec(NETWORK, names)
    model = names["network"]()
    for _ in range(3):
        names["step"](model, names["X"])
        model.zero_grad()
    expected = model.state_dict()
    assert result["state"].keys() == expected.keys()
    for key, value in expected.items():
        # Means over two halves of a batch are summed in another order.
        torch.testing.assert_close(result["state"][key], value, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(result["outputs"], model.eval()(names["X"]).detach(), rtol=1e-5, atol=1e-5)
