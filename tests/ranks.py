"""What two processes of torch do together, for test_torch_distributed, and one alone:
`torchrun --nproc-per-node 2 tests/ranks.py FOLDER [EXAMPLES]`.

Each job of JOBS leaves what it returns in FOLDER/JOB.RANK.pt; a folder of examples adds the one of
DistributedDataParallel.
"""

import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import state_dict as states
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import rnn_gpu.torch

T, B, UPDATES = 6, 8, 3
WHOLE = states.StateDictOptions(full_state_dict=True)


class Model(torch.nn.Module):
    """Three kinds of layers of ours in a row, and a readout of two numbers a step."""

    def __init__(self):
        super().__init__()
        self.lstm = rnn_gpu.torch.LSTM(3, 5, num_layers=2, bidirectional=True)
        self.gru, self.rnn = rnn_gpu.torch.GRU(10, 7), rnn_gpu.torch.RNN(7, 6)
        self.out = torch.nn.Linear(6, 2)

    def forward(self, x):
        y, _ = self.lstm(x)
        y, _ = self.gru(y)
        y, _ = self.rnn(y)
        return self.out(y)


def made() -> Model:
    """The same numbers in each process."""
    torch.manual_seed(0)
    return Model().double()


def batches(count: int = UPDATES):
    """Pairs (x (T, B, 3), y (T, B, 2)), the same in each process."""
    numbers = torch.Generator().manual_seed(1)
    draw = {"generator": numbers, "dtype": torch.float64}
    return [(torch.randn(T, B, 3, **draw), torch.randn(T, B, 2, **draw)) for _ in range(count)]


def mine(tensor, dim: int = 1):
    """The part of this process."""
    return tensor.chunk(dist.get_world_size(), dim)[dist.get_rank()]


def loss(model, x, y):
    return (model(x) - y).square().sum() / (T * B)


def adam_for(model):
    return torch.optim.Adam(model.parameters(), 0.02)


def found(model) -> dict[str, dict]:
    """Numbers of the parameters and of their gradients, by name."""
    named = dict(model.named_parameters())
    return {
        "values": {name: θ.detach().clone() for name, θ in named.items()},
        "gradients": {name: θ.grad.clone() for name, θ in named.items()},
    }


def trained(model, adam, pairs, share=lambda a: a, times=1):
    """`found`, after an update for each pair."""
    for x, y in pairs:
        adam.zero_grad()
        (times * loss(model, share(x), share(y))).backward()
        adam.step()
    return found(getattr(model, "module", model))


def averaged(folder):
    """Half of each batch, gradients averaged: twice the loss of each makes them those of all."""
    model = DistributedDataParallel(made())
    return trained(model, adam_for(model), batches(), mine, 2)


def accumulated(folder):
    """Two batches before the gradients are sent."""
    model = DistributedDataParallel(made())
    (first, second) = batches(2)
    with model.no_sync():
        (2 * loss(model, *map(mine, first))).backward()
    unsent = found(model.module)["gradients"]
    (2 * loss(model, *map(mine, second))).backward()
    return {"unsent": unsent, **found(model.module)}


def joined(folder):
    """The second process has one batch less: it gives zeros while the first goes on."""
    model = DistributedDataParallel(made())
    with model.join():
        trained(model, adam_for(model), batches()[: UPDATES - dist.get_rank()], mine, 2)
    return found(model.module)


def empty(folder):
    """The first process has all samples, the second has none."""
    model = DistributedDataParallel(made())
    rank = dist.get_rank()
    return trained(model, adam_for(model), batches(), lambda a: a[:, : 0 if rank else B], 2)


def sharded_model() -> Model:
    """Each module a unit of its own, whose weights are given back after its way forward."""
    model = made()
    for part in (model.lstm, model.gru, model.rnn):
        fully_shard(part, reshard_after_forward=True)
    return fully_shard(model)


def whole(tensors: dict) -> dict:
    return {name: a.full_tensor() for name, a in tensors.items()}


def sharded(folder):
    """Weights shared out; saved after training, with what Adam knows."""
    model = sharded_model()
    adam = adam_for(model)
    result = trained(model, adam, batches(), mine, 2)
    parts = {name: tuple(a.to_local().shape) for name, a in result["values"].items()}
    values, gradients = (whole(result[key]) for key in ("values", "gradients"))
    model_state, adam_state = states.get_state_dict(model, adam)
    dcp.save({"model": model_state, "adam": adam_state}, checkpoint_id=folder / "of_two")
    return {"parts": parts, "values": values, "gradients": gradients}


def continued(folder):
    """What one process has saved is read by two, which go on."""
    model = sharded_model()
    adam = adam_for(model)
    restored(model, adam, folder / "of_one")
    before = states.get_model_state_dict(model, options=WHOLE)
    return {"before": before, "values": whole(trained(model, adam, batches(), mine, 2)["values"])}


def restored(model, adam, checkpoint):
    """Read a checkpoint into a model and its Adam, in as many processes as there are."""
    model_state, adam_state = states.get_state_dict(model, adam)
    state = {"model": model_state, "adam": adam_state}
    dcp.load(state, checkpoint_id=checkpoint)
    states.set_state_dict(
        model, adam, model_state_dict=state["model"], optim_state_dict=state["adam"]
    )


JOBS = (averaged, accumulated, joined, empty, sharded, continued)


def example(folder):
    """Losses of examples/ddp.py."""
    import ddp

    return ddp.main()


def main(folder: Path, examples: str | None = None):
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

    def do(job):
        torch.save(job(folder), folder / f"{job.__name__}.{rank}.pt")

    torch.set_num_threads(1)
    if examples:
        sys.path.insert(0, examples)
        do(example)
    # not torchrun's meeting place, where the example's addresses stand still
    place = f"file://{folder}/meeting"
    timeout = timedelta(seconds=60)
    dist.init_process_group("gloo", place, timeout, size, rank)
    for job in JOBS:
        do(job)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
