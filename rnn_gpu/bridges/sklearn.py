"""Networks as scikit-learn's estimators: one label, or one row of numbers, for each sequence."""

from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import (
    assert_all_finite,
    check_array,
    check_consistent_length,
    check_random_state,
)
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from .. import arguments
from ..errors import ArgumentError, ShapeError
from ..layers import GRU, LSTM, RNN, Dense, Layer, stack
from ..network import Network
from ..network.best import EarlyStopping

KINDS = {"lstm": LSTM, "gru": GRU, "rnn": RNN}


def is_sequences(X) -> bool:
    """Is X a list, or an array of objects, of sequences (T_i, m), and no table of numbers."""
    if isinstance(X, np.ndarray):
        listed = X.dtype == object and X.ndim == 1
    else:
        listed = isinstance(X, (list, tuple))
    return listed and len(X) > 0 and dimensions(X[0]) == 2


def dimensions(a) -> int:
    """Of an array, or of lists in each other, which may be ragged."""
    if hasattr(a, "ndim"):
        return a.ndim
    return 1 + (dimensions(a[0]) if len(a) else 0) if isinstance(a, (list, tuple)) else 0


class Sequences(BaseEstimator):
    """What RNNClassifier and RNNRegressor share: sequences at the door, the network, training.

    X is one of

        a list of arrays (T_i, m)  sequences, which may have different lengths
        an array (N, T, m)         sequences of one length
        a table (N, m)             sequences of one step of m features; with `steps` rows are cut
                                   into so many steps of m / steps features, the first step first

    layer          "lstm", "gru" or "rnn" (tanh), of hidden_size units, num_layers above each other,
                   of two directions each where `bidirectional`, Dropout of rate `dropout` between
    steps          see above; only for tables
    early_stopping True holds `validation_share` of the samples out, stops where their loss has not
                   fallen for `patience` epochs, and takes the weights of the best
    random_state   of weights, of the order of samples and of those held out
    epochs, batch_size, optimizer, learning_rate, clip_norm, progress  see Network.fit
    device, dtype  see rnn_gpu.LSTM

    network_       after `fit`: the Network, which has `save`, `gradient_flow` and the like
    history_       of training, see Network.fit
    n_iter_        how many epochs there were
    """

    def __init__(
        self,
        *,
        layer: str = "lstm",
        hidden_size: int = 32,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        steps: int | None = None,
        epochs: int = 50,
        batch_size: int = 32,
        optimizer: Any = "adam",
        learning_rate: Any = 0.01,
        clip_norm: float | None = 1.0,
        early_stopping: bool = False,
        validation_share: float = 0.1,
        patience: int = 5,
        random_state: Any = None,
        device: str = "auto",
        dtype: str = "float32",
        progress: bool = False,
    ):
        self.layer = layer
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.steps = steps
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.clip_norm = clip_norm
        self.early_stopping = early_stopping
        self.validation_share = validation_share
        self.patience = patience
        self.random_state = random_state
        self.device = device
        self.dtype = dtype
        self.progress = progress

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.target_tags.required = True
        tags.non_deterministic = False
        return tags

    def _sequences(self, X, *, reset: bool) -> Any:
        """X as a list of sequences or an array (N, T, m), of finite numbers; `reset` takes the
        number of features, else it must be that.
        """
        dtype = arguments.dtype_name(self.dtype)
        if is_sequences(X):
            if self.steps is not None:
                raise ArgumentError("steps is given, which cuts tables, but X is sequences")
            found = [check_array(one, dtype=dtype, input_name=f"X[{i}]") for i, one in enumerate(X)]
        elif dimensions(X) == 3:
            if self.steps is not None:
                raise ArgumentError("steps is given, which cuts tables, but X is (N, T, m)")
            found = check_array(X, dtype=dtype, allow_nd=True, input_name="X")
        else:
            table: Any = validate_data(self, X, dtype=dtype, reset=reset)
            return self._cut(table)
        features = {one.shape[1] for one in found}
        m = found[0].shape[1] if reset else self.n_features_in_
        if features != {m}:
            name = type(self).__name__
            raise ShapeError(
                f"X has sequences of {', '.join(map(str, sorted(features)))} features, but {name} "
                f"is expecting {m} features as input"
            )
        if reset:
            self.n_features_in_ = m
            self.__dict__.pop("feature_names_in_", None)
        return found

    def _cut(self, table: np.ndarray) -> np.ndarray:
        """Rows as sequences, (N, T, m)."""
        T = 1 if self.steps is None else arguments.size("steps", self.steps)
        if table.shape[1] % T:
            raise ShapeError(
                f"X has {table.shape[1]} columns, which {T} steps cannot share: steps is {T}"
            )
        return table.reshape(len(table), T, -1)

    def _fit(self, X, targets: np.ndarray, outputs: int, loss: str, weight):
        """Build the network for these sequences and train it."""
        check_consistent_length(X, targets)
        kind = KINDS[arguments.choice("layer", self.layer, KINDS)]
        drawn = check_random_state(self.random_state)
        seed = (
            int(self.random_state)
            if isinstance(self.random_state, Integral)
            else int(drawn.randint(2**31 - 1))
        )
        common: dict[str, Any] = {"device": self.device, "dtype": self.dtype}
        layers: list[Layer] = stack(
            kind,
            X[0].shape[1],
            self.hidden_size,
            num_layers=self.num_layers,
            bidirectional=self.bidirectional,
            dropout=self.dropout,
            seed=seed,
            **common,
        )
        width = layers[-1].output_size
        assert width is not None  # of a recurrent layer
        layers.append(Dense(width, outputs, seed=seed, **common))
        network = Network(layers, loss=loss, steps="last")
        more: dict[str, Any] = {}
        if arguments.flag("early_stopping", self.early_stopping):
            more["validation"] = self.validation_share
            more["callbacks"] = [EarlyStopping("validation_loss", patience=self.patience)]
        self.history_ = network.fit(
            X,
            targets,
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            clip_norm=self.clip_norm,
            seed=seed,
            progress=self.progress,
            sample_weight=weight,
            **more,
        )
        self.n_iter_ = len(self.history_["loss"])
        self.network_ = network
        return self

    def _outputs(self, X, method: str) -> np.ndarray:
        """What a method of the network gives for X, which is checked."""
        check_is_fitted(self)
        return getattr(self.network_, method)(self._sequences(X, reset=False))


def needed(estimator, y):
    """Raise ValueError, in scikit-learn's words, where there is no y."""
    if y is None:
        raise ValueError(
            f"This {type(estimator).__name__} estimator requires y to be passed, but the target y "
            "is None."
        )


def weights(X, sample_weight) -> np.ndarray | None:
    """sample_weight as finite numbers, one for each sample, in float64."""
    if sample_weight is None:
        return None
    options: dict[str, Any] = {"dtype": np.float64, "input_name": "sample_weight"}
    weight = column_or_1d(check_array(sample_weight, ensure_2d=False, **options))
    check_consistent_length(X, weight)
    if not weight.any():
        raise ArgumentError("sample_weight: every weight is zero")
    return weight


class RNNClassifier(ClassifierMixin, Sequences):
    """A class for each sequence, trained by softmax and cross-entropy.

    classes_  after `fit`: the labels, of any kind, sorted
    See Sequences for X, the arguments and what `fit` leaves.
    """

    def fit(self, X, y, sample_weight=None):
        """Train anew.  y (N,) labels of at least two classes; sample_weight (N,)."""
        needed(self, y)
        X = self._sequences(X, reset=True)
        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        self.classes_, targets = np.unique(y, return_inverse=True)
        weight = weights(X, sample_weight)
        if len(np.unique(y if weight is None else y[weight > 0])) < 2:
            raise ValueError(
                f"y has only one class of a weight above 0: {type(self).__name__} needs at least 2"
            )
        loss = "softmax_cross_entropy"
        return self._fit(X, targets, len(self.classes_), loss, weight)

    def predict_proba(self, X) -> np.ndarray:
        """(N, number of classes) probabilities, in the order of classes_."""
        return self._outputs(X, "predict_proba")

    def predict(self, X) -> np.ndarray:
        """(N,) the most likely labels."""
        best = self._outputs(X, "predict").argmax(1)
        return self.classes_[best]


class RNNRegressor(RegressorMixin, Sequences):
    """A number, or k numbers, for each sequence, trained by the squared error.

    See Sequences for X, the arguments and what `fit` leaves. y is taken as it is: scale what is far
    from 1, as by scikit-learn's TransformedTargetRegressor.
    """

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = True
        return tags

    def fit(self, X, y, sample_weight=None):
        """Train anew.  y (N,) or (N, k); sample_weight (N,)."""
        needed(self, y)
        X = self._sequences(X, reset=True)
        dtype = arguments.dtype_name(self.dtype)
        y = check_array(y, dtype=dtype, ensure_2d=False, input_name="y")
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        self._one = y.ndim == 1
        targets = y.reshape(len(y), -1)
        weight = weights(X, sample_weight)
        return self._fit(X, targets, targets.shape[1], "squared_error", weight)

    def predict(self, X) -> np.ndarray:
        """(N,), or (N, k) where y was so, in float64 whatever `dtype` is."""
        outputs = self._outputs(X, "predict").astype(np.float64)
        return outputs[:, 0] if self._one else outputs
