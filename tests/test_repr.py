"""What objects say of themselves: the call that makes them, shapes and counts, and never a thousand
numbers.
"""

import numpy as np
import pytest

import rnn_gpu
from door import REFERENCE, K, M, N, X, draw, network, rnn, table
from rnn_gpu import (
    GRU,
    LSTM,
    Bidirectional,
    Dense,
    Dropout,
    Embedding,
    Network,
    Recurrent,
    optimizers,
)
from rnn_gpu.layers import Layer

RNN_4_6 = "RNN(4, 6, device='reference')"


def swish(z):
    return np.tanh(z)


def dswish(y):
    return 1 - y * y


@pytest.mark.parametrize(
    ("made", "says"),
    table(
        ("RNN", rnn(), f"{RNN_4_6}: U (6, 4), W (6, 6), b (6,): 66 parameters"),
        (
            "LSTM",
            LSTM(M, N, dtype="float64", zoneout=(0.1, 0.5), **REFERENCE),
            "LSTM(4, 6, device='reference', dtype='float64', zoneout=(0.1, 0.5)): U (24, 4), W "
            "(24, 6), b (24,): 264 parameters",
        ),
        (
            "own activation",
            rnn(activation=(swish, dswish)),
            f"{RNN_4_6.replace('6,', '6, activation=' + repr('swish') + ',')}: U",
        ),
        (
            "Recurrent",
            Recurrent("gru", M, N, **REFERENCE),
            "Recurrent('gru', 4, 6, device='reference'): U (18, 4), W (18, 6), b (18,), c",
        ),
        (
            "Bidirectional",
            Bidirectional(rnn()),
            f"Bidirectional({RNN_4_6}, RNN(4, 6, device='reference', seed=1, reverse=True)): U "
            "(6, 4), W (6, 6), b (6,), U_reverse",
        ),
        (
            "Dense",
            Dense(M, K, "tanh", **REFERENCE),
            "Dense(4, 2, activation='tanh', device='reference'): V (2, 4), b (2,): 10 parameters",
        ),
        (
            "Embedding",
            Embedding(M, K, **REFERENCE),
            "Embedding(4, 2, device='reference'): V (2, 4): 8 parameters",
        ),
        (
            "Dropout",
            Dropout(0.5, variational=True, **REFERENCE),
            "Dropout(0.5, variational=True, device='reference'): no parameters",
        ),
        (
            "SGD",
            optimizers.SGD(0.1),
            "SGD(learning_rate=0.1, momentum=0.0, nesterov=False, weight_decay=0.0, steps=0)",
        ),
        (
            "Adam",
            optimizers.Adam(),
            "Adam(learning_rate=0.001, beta1=0.9, beta2=0.999, epsilon=1e-08, weight_decay=0.0, "
            "steps=0)",
        ),
    ),
)
def test_a_layer_and_an_optimizer_say_the_call_that_makes_them(made, says):
    assert repr(made).startswith(says)
    if isinstance(made, Layer) and "swish" not in says:
        call = repr(made).split("): ")[0] + ")"
        assert repr(eval(call, vars(rnn_gpu))) == repr(made)


def test_a_network_says_each_layers_output_and_how_many_parameters():
    net = Network(
        [rnn(), Dropout(0.5, **REFERENCE), Dense(N, K, **REFERENCE)],
        loss="softmax_cross_entropy",
        steps="last",
    )
    assert repr(net).splitlines() == [
        "Network, loss='softmax_cross_entropy', steps='last', device='reference', "
        "dtype='float32': 80 parameters",
        f"  0  {RNN_4_6} gives 6: 66 parameters",
        "  1  Dropout(0.5, device='reference') gives 6: no parameters",
        "  2  Dense(6, 2, device='reference') gives 2: 14 parameters",
    ]


def test_what_holds_arrays_says_their_shapes():
    layer = GRU(M, N, **REFERENCE)
    y, _ = layer(X)
    layer.backward(y, tape=True)
    assert repr(layer.tape).startswith(
        "DeltaTape(delta=float32 (5, 3, 3, 6), delta_recurrent=float32 (5, 3, 3, 6), ds=float32 "
        "(1, 6, 3, 6)"
    )
    assert repr(layer._last.tape).startswith(
        "Tape(x=float32 (5, 3, 4), wide_s=float32 (1, 6, 3, 6)"
    )
    train, _ = rnn_gpu.datasets.vowels()
    assert repr(train) == "Sequences(x=[float32 (20, 12), … 270 arrays], y=int64 (270,))"


def test_what_training_and_measuring_give_is_told_in_a_few_lines():
    net, x, y = network(), draw(40, 30, M), draw(40, 30, K)
    history = net.fit(x, y, epochs=3, batch_size=1, progress=False)
    assert repr(history).startswith("History(compile_seconds: 1, last ")
    assert f"step_loss: 120, last {history['step_loss'][-1]:.6g}" in repr(history)
    assert history == dict(history) and isinstance(history, dict)
    for told in (history, net.gradient_flow(x, y), net.plan(30, 40), net):
        assert len(repr(told)) < 1000, repr(told)
