"""How well it learns, ours and torch's in one run: Japanese vowels, and characters of Python's
manual.

    python -m benchmarks accuracy [--quick]

torch gets the same samples in the same order, its own default initial weights, and one thread.
"""

import argparse
import math

import numpy as np

import rnn_gpu

from . import record

CELLS = {"Elman": "RNN", "LSTM": "LSTM", "GRU": "GRU"}


def ours_vowels(kind, seed, train, test, epochs):
    layers = [
        getattr(rnn_gpu, kind)(12, 64, device="cpu", seed=seed),
        rnn_gpu.Dense(64, 9, device="cpu", seed=seed),
    ]
    network = rnn_gpu.Network(layers, loss="softmax_cross_entropy", steps="last")
    network.fit(
        train.x,
        train.y,
        epochs=epochs,
        batch_size=27,
        learning_rate=3e-3,
        seed=seed,
        progress=False,
    )
    return network.evaluate(test.x, test.y)["accuracy"]


def torch_vowels(kind, seed, train, test, epochs):
    import torch

    from . import train_torch

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    network = train_torch.Speakers(kind)
    train_torch.train(network, train, epochs, seed)
    return train_torch.accuracy(network, test)


def ours_manual(text, steps):
    k = len(text.vocabulary)
    layers = [
        rnn_gpu.Embedding(k, 64, device="cpu"),
        rnn_gpu.LSTM(64, 128, device="cpu"),
        rnn_gpu.Dense(128, k, device="cpu"),
    ]
    network = rnn_gpu.Network(layers, loss="softmax_cross_entropy")
    x, y = (windows_for(s, steps) for s in text.train)
    network.fit(x, y, epochs=1, batch_size=32, learning_rate=3e-3, shuffle=False, progress=False)
    return network.evaluate(*text.validation)["loss"] / math.log(2)


def windows_for(sequences, steps):
    """32 windows a step, drawn without replacement, epoch after epoch: exactly `steps` updates."""
    rng, order = np.random.default_rng(0), []
    while len(order) < 32 * steps:
        order += list(rng.permutation(len(sequences)))
    return [sequences[i] for i in order[: 32 * steps]]


def torch_manual(text, steps):
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    k = len(text.vocabulary)
    embedding, lstm = torch.nn.Embedding(k, 64), torch.nn.LSTM(64, 128)
    readout = torch.nn.Linear(128, k)
    adam = torch.optim.Adam(
        [*embedding.parameters(), *lstm.parameters(), *readout.parameters()], 3e-3
    )

    def loss(x, y):
        x, y = (torch.tensor(np.stack(a)).T for a in (x, y))
        return torch.nn.functional.cross_entropy(
            readout(lstm(embedding(x))[0]).reshape(-1, k), y.reshape(-1)
        )

    x, y = (windows_for(s, steps) for s in text.train)
    for first in range(0, 32 * steps, 32):
        adam.zero_grad()
        loss(x[first : first + 32], y[first : first + 32]).backward()
        adam.step()
    with torch.no_grad():
        return float(loss(*text.validation)) / math.log(2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick",
        action="store_true",
        help="2 epochs of the vowels, 20 steps of the manual, not recorded",
    )
    quick = parser.parse_args().quick
    train, test = rnn_gpu.datasets.vowels(standardise=True)
    text = rnn_gpu.datasets.python_manual()
    epochs, steps = (2, 20) if quick else (60, 1000)
    rows = {}
    for cell, kind in CELLS.items():
        both = {
            who: [run(kind, seed, train, test, epochs) for seed in range(3)]
            for who, run in (("ours", ours_vowels), ("torch", torch_vowels))
        }
        rows[f"vowels {cell}, accuracy"] = both
    rows["manual LSTM n=128, bits a character"] = {
        "ours": [ours_manual(text, steps)],
        "torch": [torch_manual(text, steps)],
    }
    print("| | ours | torch |\n| --- | --- | --- |")
    for name, both in rows.items():
        print(f"| {name} | {np.mean(both['ours']):.3f} | {np.mean(both['torch']):.3f} |")
    if not quick:
        print(record.write("accuracy", "cpu", rows))


if __name__ == "__main__":
    main()
