"""Train on several processes, GPUs or machines: `torchrun --nproc-per-node 2 examples/ddp.py`.

Each process has a share of every batch; DistributedDataParallel averages the gradients: what is
learned is what one process learns from whole batches. With CUDA each process takes the GPU of its
local rank, without it the processes meet over gloo on the CPU.
"""

import os

import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

import rnn_gpu.torch


class Sum(torch.nn.Module):
    """Reads a sequence of numbers, and says their sum."""

    def __init__(self, n=16):
        super().__init__()
        self.lstm, self.readout = rnn_gpu.torch.LSTM(1, n), torch.nn.Linear(n, 1)

    def forward(self, x):
        y, _ = self.lstm(x)
        return self.readout(y[-1])


def main(updates=91, B=32, T=6) -> list[float]:
    """The loss of each batch of B."""
    cuda = torch.cuda.is_available()
    torch.distributed.init_process_group("nccl" if cuda else "gloo")
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    torch.manual_seed(0)
    model = DistributedDataParallel(Sum().to(device))
    adam = torch.optim.Adam(model.parameters(), 0.02)
    numbers, losses = torch.Generator().manual_seed(1), []  # each process draws the same batch
    for update in range(updates):
        x = torch.randn(T, B, 1, generator=numbers).chunk(world, 1)[rank].to(device)
        loss = (model(x) - x.sum(0)).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        total = loss.detach().clone()
        torch.distributed.all_reduce(total)
        losses.append(total.item() / world)
        if rank == 0 and update % 30 == 0:
            print(f"update {update}: loss {losses[-1]:.4f}", flush=True)
    # a process that leaves while another still talks to it aborts that one
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    return losses


if __name__ == "__main__":
    main()
