"""The job of `rnn-gpu train` written in torch: the same samples in the same order, the same initial
weights, Adam.

python -m benchmarks train_torch [--cell elman] [--epochs 60] [--seed 0] [--threads 1]

Prints one line of JSON: seconds of the epochs, and the accuracy on the test samples of the weights
with the least loss on a fifth of the training samples, which validates.
"""

import argparse
import copy
import json
import time

import numpy as np
import torch

import rnn_gpu

PATIENCE = 15  # epochs that are not better
KINDS = {"elman": "RNN", "lstm": "LSTM", "gru": "GRU"}


class Speakers(torch.nn.Module):
    """A recurrent layer on (T, B, 12), and a readout at the last step of each sample."""

    def __init__(self, kind: str, n: int = 64):
        super().__init__()
        self.recurrent, self.readout = getattr(torch.nn, kind)(12, n), torch.nn.Linear(n, 9)

    def start_as_ours(self, kind: str, seed: int):
        """The weights that our layers start from, and no second bias where ours have none."""
        recurrent = getattr(rnn_gpu, kind)(12, self.readout.in_features, device="cpu", seed=seed)
        readout = rnn_gpu.Dense(self.readout.in_features, 9, device="cpu", seed=seed).parameters
        self.recurrent.load_state_dict(
            {name: torch.tensor(value) for name, value in recurrent.to_torch().items()}
        )
        # two biases learn twice as fast as our one
        self.recurrent.bias_hh_l0.requires_grad_("c" in recurrent.parameters)
        self.readout.load_state_dict(
            {"weight": torch.tensor(readout["V"]), "bias": torch.tensor(readout["b"])}
        )

    def forward(self, x):
        lengths = torch.tensor([len(s) for s in x])
        y, _ = self.recurrent(torch.nn.utils.rnn.pad_sequence([torch.tensor(s) for s in x]))
        return self.readout(y[lengths - 1, torch.arange(len(x))])


def train(network: Speakers, samples, epochs: int, seed: int, on_epoch=lambda loss: True):
    """Batches of 27, Adam 3e-3; on_epoch gets the mean loss of an epoch, and says whether
    there is another.
    """
    adam = torch.optim.Adam(network.parameters(), 3e-3)
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        order, total = rng.permutation(len(samples.x)), 0.0
        for chosen in np.split(order, range(27, len(order), 27)):
            adam.zero_grad()
            loss = torch.nn.functional.cross_entropy(
                network([samples.x[i] for i in chosen]), torch.tensor(samples.y[chosen])
            )
            loss.backward()
            adam.step()
            total += len(chosen) * float(loss.detach())
        if not on_epoch(total / len(samples.x)):
            return


def part_of(samples, chosen):
    """The samples of these numbers."""
    return type(samples)([samples.x[i] for i in chosen], samples.y[chosen])


@torch.no_grad()
def loss_of(network: Speakers, samples) -> float:
    """The mean loss of samples."""
    return float(torch.nn.functional.cross_entropy(network(samples.x), torch.tensor(samples.y)))


@torch.no_grad()
def accuracy(network: Speakers, samples) -> float:
    return float((network(samples.x).argmax(1).numpy() == samples.y).mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cell", choices=KINDS, default="elman")
    for name, value in {"epochs": 60, "seed": 0, "threads": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    chosen = parser.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    whole, test = rnn_gpu.datasets.vowels(standardise=True)
    held_out = np.arange(len(whole.x)) % 5 == 4  # as in `rnn-gpu train`
    samples, validation = (part_of(whole, np.flatnonzero(side)) for side in (~held_out, held_out))
    network = Speakers(KINDS[chosen.cell])
    network.start_as_ours(KINDS[chosen.cell], chosen.seed)
    best, weights, waited = float("inf"), network.state_dict(), 0

    def keep_best(loss):
        nonlocal best, weights, waited
        loss, waited = loss_of(network, validation), waited + 1
        if loss < best:
            best, weights, waited = loss, copy.deepcopy(network.state_dict()), 0
        return waited < PATIENCE

    start = time.perf_counter()
    train(network, samples, chosen.epochs, chosen.seed, keep_best)
    seconds = time.perf_counter() - start
    network.load_state_dict(weights)
    print(json.dumps({"epoch_seconds": seconds, "loss": best, "accuracy": accuracy(network, test)}))


if __name__ == "__main__":
    main()
