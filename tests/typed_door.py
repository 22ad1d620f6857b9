"""What a type checker must know of the door; read by `.ci/types`, never run. A line with an ignore
must be an error.
"""

from collections.abc import Mapping
from typing import Any, assert_type

import numpy as np

import rnn_gpu
from rnn_gpu import callbacks, optimizers, schedules

x, y = np.zeros((7, 2, 3), "float32"), np.zeros((7, 2, 5), "float32")

# Layers
lstm = rnn_gpu.LSTM(
    3,
    5,
    batch_first=False,
    device="cpu",
    dtype=np.float32,
    seed=1,
    init="torch",
    reverse=False,
    zoneout=(0.1, 0.2),
)
elman = rnn_gpu.RNN(3, 5, "relu", recurrent_dropout=0.1, precision="fp32")
own = rnn_gpu.RNN(3, 5, (np.arctan, lambda y: np.cos(y) ** 2))
gru = rnn_gpu.Recurrent("gru", 3, 5)
both = rnn_gpu.Bidirectional(rnn_gpu.GRU(3, 5))
assert_type(lstm(x, (y[0], y[0]), lengths=[7, 3], mask=None, training=True), tuple[Any, Any])
assert_type(lstm.backward(y, None, tape=True, clip_step_norm=1.0), tuple[Any, Any])
assert_type(lstm.grads, Mapping[str, np.ndarray])
assert_type(lstm.parameters["U"], np.ndarray)
assert_type(lstm.delta, np.ndarray)
assert_type(lstm.copy(dtype="float64"), rnn_gpu.LSTM)
assert_type(lstm.tape.weight_gradient_norms, np.ndarray)
assert_type(rnn_gpu.Dense(5, 2, "tanh").device, str)
lstm.load_torch(lstm.to_torch())
lstm.load_keras(lstm.to_keras())

rnn_gpu.LSTM(3, 5, True)  # type: ignore
rnn_gpu.LSTM(3, 5, bidirectional=True)  # type: ignore
rnn_gpu.GRU(3, 5, bias="False")  # type: ignore
rnn_gpu.RNN(3, 5, reverse="no")  # type: ignore
rnn_gpu.Recurrent(3, 5)  # type: ignore
rnn_gpu.Dropout(0.5, True)  # type: ignore
lstm(x, None, [7, 3])  # type: ignore

# Networks
layers = rnn_gpu.stack(rnn_gpu.LSTM, 3, 5, num_layers=2, bidirectional=True, dropout=0.1)
network = rnn_gpu.Network(
    [*layers, rnn_gpu.Dropout(0.5, variational=True), rnn_gpu.Dense(10, 2)],
    loss="squared_error",
    steps="last",
)
history = network.fit(
    [x[:, 0]],
    y[:1, 0],
    epochs=2,
    optimizer=optimizers.Adam(1e-3, beta1=0.8),
    clip_norm=None,
    on_epoch=print,
    callbacks=[callbacks.BestModel("loss", mode="min"), callbacks.Progress(columns=60)],
)
assert_type(history["loss"], list[float])
assert_type(network.evaluate(x, y), dict[str, float])
assert_type(network.parameters, Mapping[str, np.ndarray])
assert_type(network.copy(), rnn_gpu.Network)
assert_type(network.plan(7, 2, "512MB").bytes, int)
assert_type(network.gradient_flow(x, y).layers[0].verdict, str)
assert_type(network.gradient(x, y, truncate=(1, 2)), tuple[float, dict[str, np.ndarray]])
assert_type(rnn_gpu.gradcheck(lstm, x, y, state=None, allow_blind=True).worst, float)
assert_type(rnn_gpu.load("model", device="cpu"), rnn_gpu.Network)
rnn_gpu.Stream(network, state=None)(x[0])
network.save("model", metadata={"words": ["a", "b"]})
assert_type(network.metadata, dict[str, Any])
network.predict_proba(x, batch_size=3)
assert_type(network.summary().layers[0].shapes, dict[str, tuple[int, ...]])
rnn_gpu.plot(history, "training.png")

rnn_gpu.Network(layers, "squared_error")  # type: ignore
rnn_gpu.load("model", "cpu")  # type: ignore
network.fit(
    x,
    y,
    updates=9,
    learning_rate=schedules.warm_up(schedules.cosine(1e-3, 9), 3),
    validation=0.2,
    metrics={"mae": lambda outputs, targets: float(abs(outputs - targets).mean())},
    sample_weight=[1, 2],
    class_weight={0: 2.0},
    ignore_index=-100,
    burn_in=2,
    mask=[[True] * 7] * 2,
    stateful=False,
    callbacks=[
        callbacks.EarlyStopping("validation_loss", patience=3, restore_best=False),
        callbacks.ReduceOnPlateau(factor=0.1),
        callbacks.CSVLog("log.csv"),
    ],
)
network.fit(lambda epoch: [(x, y)], epochs=1)
assert_type(network.evaluate(x, y, burn_in=1, class_weight=[1.0, 2.0]), dict[str, float])
assert_type(rnn_gpu.loss("huber(0.5)").name, str)
rnn_gpu.Network(layers, loss=(lambda o, t: (o - t) ** 2, lambda o, t: 2 * (o - t)))
rnn_gpu.Network(layers, batch_first=True)
network.fit(x, y, validation="much")  # type: ignore
network.fit(x, y, metrics=[print])  # type: ignore
network.fit(x, y, learning_rate="fast")  # type: ignore
network.fit(x, y, shuffle="no")  # type: ignore
network.fit(x, y, clip_norm="")  # type: ignore
network.fit(x, y, callbacks=[print])  # type: ignore
optimizers.SGD(0.1, 0.9)  # type: ignore

# What is left of the door
train, test = rnn_gpu.datasets.vowels(standardise=True)
assert_type(train.x, list[np.ndarray])
assert_type(rnn_gpu.activation("tanh").name, str)
rnn_gpu.cell("own", gates=1, states=1, kept=1, step=print, back=print, initial_bias=(0.0,))
rnn_gpu.Embedding(9, 3, device=lstm.device)
errors = (
    rnn_gpu.ArgumentError,
    rnn_gpu.DerivativeError,
    rnn_gpu.DeviceError,
    rnn_gpu.DtypeError,
    rnn_gpu.GradientError,
)
errors += (
    rnn_gpu.ModelFileError,
    rnn_gpu.NonFiniteError,
    rnn_gpu.OrderError,
    rnn_gpu.ShapeError,
    rnn_gpu.UnsupportedError,
)
assert_type(rnn_gpu.device("auto").name, str)
