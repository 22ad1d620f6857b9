"""Tag each character of Python code, with torch and packed sequences: python examples/tagging.py

Lines of the standard library, and what `tokenize` says of each character: a name, a keyword, a
number, a string, a comment, a mark, or nothing. The network is torch's but for its recurrent layer;
beside it the same one with torch.nn.LSTM, from the same weights in the same order.
"""

import argparse
import inspect
import io
import keyword
import time
import tokenize

import numpy as np
import torch
from torch.nn.utils.rnn import pack_sequence

import rnn_gpu.torch

TAGS = {"NUMBER": 3, "STRING": 4, "COMMENT": 5, "OP": 6}
SHORT, LONG = 20, 79  # characters of a line that is taken


def lines(module) -> list[tuple[np.ndarray, np.ndarray]]:
    """(characters, tags) of each line of a module that stands by itself."""
    found = []
    for line in inspect.getsource(module).splitlines():
        if not SHORT <= len(line) <= LONG or not line.isascii():
            continue
        tags = np.zeros(len(line), "int64")
        try:
            for token in tokenize.generate_tokens(io.StringIO(line.strip()).readline):
                name = tokenize.tok_name[token.type]
                kind = 1 + keyword.iskeyword(token.string) if name == "NAME" else TAGS.get(name, 0)
                indent = len(line) - len(line.lstrip())
                tags[indent + token.start[1] : indent + token.end[1]] = kind
        except (tokenize.TokenError, IndentationError, SyntaxError):
            continue
        found.append((np.frombuffer(line.encode(), "uint8").astype("int64"), tags))
    return found


class Tagger(torch.nn.Module):
    """Characters as vectors, both ways through a line, a tag each."""

    def __init__(self, recurrent, n: int):
        super().__init__()
        self.vectors = torch.nn.Embedding(128, 16)
        self.recurrent = recurrent(16, n, bidirectional=True)
        self.readout = torch.nn.Linear(2 * n, 7)

    def forward(self, characters):
        packed = pack_sequence(characters, enforce_sorted=False)
        y, _ = self.recurrent(packed._replace(data=self.vectors(packed.data)))
        return self.readout(y.data), packed


def run(recurrent, train, test, epochs: int, n: int) -> tuple[float, float]:
    """(accuracy on test, seconds)."""
    torch.manual_seed(0)
    start, tagger = time.perf_counter(), Tagger(recurrent, n)
    adam, rng = torch.optim.Adam(tagger.parameters(), 5e-3), np.random.default_rng(0)

    def tags_of(some):
        return pack_sequence([y for _, y in some], enforce_sorted=False).data

    for _ in range(epochs):
        for chosen in np.array_split(rng.permutation(len(train)), len(train) // 32):
            some = [train[i] for i in chosen]
            logits, _ = tagger([x for x, _ in some])
            loss = torch.nn.functional.cross_entropy(logits, tags_of(some))
            adam.zero_grad()
            loss.backward()
            adam.step()
    with torch.no_grad():
        logits, _ = tagger([x for x, _ in test])
        right = (logits.argmax(1) == tags_of(test)).double().mean()
    return float(right), time.perf_counter() - start


def main(epochs: int = 4, n: int = 48, most: int = 1200) -> dict[str, float]:
    """Accuracies on lines that were held out."""
    torch.set_num_threads(1)  # more wait for each other, where a machine has other work
    some = [(torch.tensor(x), torch.tensor(y)) for x, y in lines(argparse)][:most]
    train, test = some[len(some) // 5 :], some[: len(some) // 5]
    found = {}
    for name, recurrent in {"ours": rnn_gpu.torch.LSTM, "torch.nn": torch.nn.LSTM}.items():
        found[name], seconds = run(recurrent, train, test, epochs, n)
        print(f"{name:10}{found[name]:.4f} of the tags right, {seconds:.1f} s")
    tags = torch.cat([y for _, y in test])
    found["always the most frequent"] = float(tags.bincount().max() / len(tags))
    print(f"always the most frequent tag: {found['always the most frequent']:.4f}")
    return found


if __name__ == "__main__":
    main()
