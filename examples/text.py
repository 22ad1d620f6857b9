"""Learn Python's manual character by character, and go on with a text: python examples/text.py

Beside bits a character of counts of triples, which know two characters of context.
"""

import math
import time

import numpy as np

import rnn_gpu
from rnn_gpu.data import Vocabulary, generate


def counted(train, test, k: int) -> float:
    """Bits a character of test, from how often each follows two others in train; smoothed."""
    counts = np.ones((k, k, k)) * 0.05
    for x in train:
        np.add.at(counts, (x[:-2], x[1:-1], x[2:]), 1)
    shares = counts / counts.sum(2, keepdims=True)
    return -np.mean([np.log2(shares[x[:-2], x[1:-1], x[2:]]).mean() for x in test])


def main(epochs: int = 4, n: int = 128, share: float = 1.0) -> tuple[float, float]:
    """Bits a character of text that was held out: the network's, and those of counts."""
    start, text = time.perf_counter(), rnn_gpu.datasets.python_manual(length=64)
    some = int(share * len(text.train.x))
    x, y = text.train.x[:some], text.train.y[:some]
    k, vocabulary = len(text.vocabulary), Vocabulary(text.vocabulary)
    network = rnn_gpu.Network(
        [rnn_gpu.Embedding(k, 64), rnn_gpu.LSTM(64, n), rnn_gpu.Dense(n, k)],
        loss="softmax_cross_entropy",
    )
    network.fit(x, y, epochs=epochs, batch_size=32, learning_rate=4e-3, clip_norm=1.0)
    bits = network.evaluate(*text.validation)["loss"] / math.log(2)
    beside = counted(x, text.validation.x, k)
    print(f"network {bits:.3f} bits a character, counts of triples {beside:.3f}")
    prompt = "The statement "
    drawn = generate(network, vocabulary.encode(prompt), 200, temperature=0.7, seed=0)
    print(f"{prompt}{vocabulary.decode(drawn)}\n{time.perf_counter() - start:.1f} s")
    return bits, beside


if __name__ == "__main__":
    main()
