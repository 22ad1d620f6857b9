"""Write torch.npz: what torch computes in float64 for small problems, so that the tests need no
torch.  python tests/oracle/make.py
"""

from pathlib import Path

import numpy as np
import torch

CASES = {
    "rnn_tanh": (torch.nn.RNN, {"nonlinearity": "tanh"}),
    "rnn_relu": (torch.nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (torch.nn.LSTM, {}),
    "gru": (torch.nn.GRU, {}),
}
T, B, M, N = 7, 4, 3, 13
LENGTHS = [5, 7, 1, 3]


def case(kind, options, lengths, seed):
    torch.manual_seed(seed)
    module = kind(M, N, dtype=torch.float64, **options)
    states = 2 if kind is torch.nn.LSTM else 1
    x = torch.randn(T, B, M, dtype=torch.float64)
    s0 = torch.randn(states, B, N, dtype=torch.float64)
    dy = torch.randn(T, B, N, dtype=torch.float64)
    ds = torch.randn(states, B, N, dtype=torch.float64)
    x.requires_grad_(), s0.requires_grad_()
    state = (s0[:1], s0[1:]) if states == 2 else s0
    if lengths is None:
        y, last = module(x, state)
    else:
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            x, torch.tensor(lengths), enforce_sorted=False
        )
        y, last = module(packed, state)
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, total_length=T)
    last = torch.cat(last) if states == 2 else last
    ((y * dy).sum() + (last * ds).sum()).backward()
    arrays = {
        "x": x,
        "s0": s0,
        "dy": dy,
        "ds": ds,
        "y": y,
        "last": last,
        "dx": x.grad,
        "ds0": s0.grad,
    }
    arrays |= dict(module.named_parameters()) | {
        "d" + name: p.grad for name, p in module.named_parameters()
    }
    arrays = {name: a.detach().numpy() for name, a in arrays.items()}
    return arrays | ({} if lengths is None else {"lengths": np.array(lengths)})


if __name__ == "__main__":
    stored = {}
    for seed, (name, (kind, options)) in enumerate(CASES.items()):
        for ragged, lengths in (("full", None), ("ragged", LENGTHS)):
            stored |= {
                f"{name}-{ragged}/{key}": a for key, a in case(kind, options, lengths, seed).items()
            }
    np.savez_compressed(
        Path(__file__).with_name("torch.npz"), version=np.array(torch.__version__), **stored
    )
