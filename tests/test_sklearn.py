"""scikit-learn's estimators: its own checks, and what is ours: sequences, steps, early stopping."""

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn")

import joblib
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from rnn_gpu import ArgumentError, ShapeError
from rnn_gpu.sklearn import RNNClassifier, RNNRegressor

SMALL = {"hidden_size": 8, "device": "cpu", "random_state": 0, "learning_rate": 0.05}
ESTIMATORS = (RNNClassifier(epochs=15, **SMALL), RNNRegressor(epochs=40, **SMALL))
# a sample of weight 2 and the same sample twice are other batches
NOT_EQUIVALENT = {
    "check_sample_weight_equivalence_on_dense_data": "batches are drawn by number of samples"
}


@parametrize_with_checks(list(ESTIMATORS), expected_failed_checks=lambda _: NOT_EQUIVALENT)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(3, 9, 60)
RAGGED = [RNG.normal(size=(T, 2)) for T in LENGTHS]
FIRST = np.array([x[0, 0] for x in RAGGED])  # which the last step must remember
LABELS = np.where(FIRST > 0, "up", "down")


def classifier(**options):
    return RNNClassifier(**SMALL | {"layer": "gru", "epochs": 30} | options)


def regressor(**options):
    return RNNRegressor(**SMALL | {"layer": "gru", "epochs": 30} | options)


def test_labels_of_ragged_sequences_are_learnt():
    model = classifier().fit(RAGGED, LABELS)
    assert model.classes_.tolist() == ["down", "up"] and model.n_features_in_ == 2
    assert model.score(RAGGED, LABELS) > 0.95
    p = model.predict_proba(RAGGED[:5])
    assert p.shape == (5, 2) and np.allclose(p.sum(1), 1)
    assert (model.predict(RAGGED[:5]) == model.classes_[p.argmax(1)]).all()


def test_numbers_of_ragged_sequences_are_learnt():
    model = regressor().fit(RAGGED, FIRST)
    assert model.score(RAGGED, FIRST) > 0.9 and model.predict(RAGGED).shape == (60,)
    both = regressor(epochs=1).fit(RAGGED, np.stack([FIRST, -FIRST, FIRST], 1))
    assert both.predict(RAGGED).shape == (60, 3)


def test_the_kinds_of_x_are_the_same_sequences():
    """Lists, an array (N, T, m), an array of objects, and a table that is cut into steps."""
    whole = RNG.normal(size=(20, 4, 3)).astype("float32")
    y = whole[:, 0, 0]
    objects = np.empty(20, object)
    objects[:] = list(whole)
    expected = regressor(epochs=2).fit(whole, y).predict(whole)
    for x in (list(whole), whole.tolist(), objects):
        assert (regressor(epochs=2).fit(x, y).predict(x) == expected).all()
    table = whole.reshape(20, 12)
    assert (regressor(epochs=2, steps=4).fit(table, y).predict(table) == expected).all()
    one = regressor(epochs=2).fit(table, y).predict(table)
    assert (regressor(epochs=2).fit(table[:, None], y).predict(table[:, None]) == one).all()


def test_a_network_is_what_is_asked_for():
    model = classifier(layer="lstm", num_layers=2, bidirectional=True, dropout=0.5, epochs=1)
    network = model.fit(RAGGED, LABELS).network_
    kinds = [type(layer).__name__ for layer in network.layers]
    assert kinds == ["Bidirectional", "Dropout", "Bidirectional", "Dense"]
    assert network.layers[0].output_size == 16 and network.dtype == "float32"
    assert classifier(dtype="float64", epochs=1).fit(RAGGED, LABELS).network_.dtype == "float64"


def test_early_stopping_holds_samples_out_and_stops():
    noise = RNG.integers(0, 2, 60)  # nothing to learn: the loss of others soon rises
    model = classifier(early_stopping=True, patience=2, validation_share=0.5, epochs=500)
    model.fit(RAGGED, noise)
    losses = model.history_["validation_loss"]
    assert model.n_iter_ == len(losses) < 500
    assert min(losses) < min(losses[-2:])
    assert "validation_loss" not in classifier(epochs=1).fit(RAGGED, noise).history_


def test_the_same_state_is_the_same_network():
    a, b, c = (classifier(epochs=2, random_state=seed) for seed in (3, 3, 4))
    for model in (a, b, c):
        model.fit(RAGGED, LABELS)
    assert (a.predict_proba(RAGGED) == b.predict_proba(RAGGED)).all()
    assert (a.predict_proba(RAGGED) != c.predict_proba(RAGGED)).any()


def test_samples_of_weight_0_are_as_if_they_were_not_there():
    """Of one batch: two of three samples have another label."""
    wrong = [*LABELS, *np.where(FIRST > 0, "down", "up"), *np.where(FIRST > 0, "down", "up")]
    weight = np.repeat([1.0, 0.0], [60, 120])
    model = classifier(batch_size=180, epochs=60).fit(RAGGED * 3, wrong, sample_weight=weight)
    assert model.score(RAGGED, LABELS) > 0.95
    assert classifier(epochs=60).fit(RAGGED * 3, wrong).score(RAGGED, LABELS) < 0.5


def test_grids_pipelines_and_cross_validation():
    grid = GridSearchCV(classifier(epochs=5), {"hidden_size": [1, 8], "layer": ["gru"]}, cv=2)
    grid.fit(RAGGED, LABELS)
    assert grid.best_params_["hidden_size"] == 8
    assert cross_val_score(classifier(), RAGGED, LABELS, cv=2).mean() > 0.65
    table = np.stack([x[:3].ravel() for x in RAGGED]) * 100 + 500
    scaled = make_pipeline(StandardScaler(), classifier(steps=3))
    assert scaled.fit(table, LABELS).score(table, LABELS) > 0.95
    scaled.set_params(rnnclassifier__steps=2)
    assert scaled.fit(table, LABELS)[-1].network_.input_size == 3


@pytest.mark.parametrize("way", ["pickle", "joblib"])
def test_a_model_is_kept(way, tmp_path):
    model = classifier(epochs=2).fit(RAGGED, LABELS)
    if way == "pickle":
        again = pickle.loads(pickle.dumps(model))
    else:
        joblib.dump(model, tmp_path / "model")
        again = joblib.load(tmp_path / "model")
    assert (again.predict_proba(RAGGED) == model.predict_proba(RAGGED)).all()
    assert clone(again).get_params() == model.get_params()


@pytest.mark.parametrize(
    "options, x, error, says",
    [
        ({"steps": 3}, np.zeros((60, 4)), ShapeError, "4 columns, which 3 steps cannot share"),
        ({"steps": 3}, RAGGED, ArgumentError, "steps is given, which cuts tables"),
        ({"steps": 3}, np.zeros((60, 3, 2)), ArgumentError, "steps is given, which cuts tables"),
        ({}, [*RAGGED[:59], np.zeros((3, 4))], ShapeError, "sequences of 2, 4 features"),
        ({}, RAGGED[:59], ValueError, "inconsistent numbers of samples"),
        ({"layer": "cnn"}, RAGGED, ArgumentError, "layer is 'cnn'"),
        ({}, [*RAGGED[:59], np.full((3, 2), np.nan)], ValueError, r"X\[59\] contains NaN"),
        ({"early_stopping": "yes"}, RAGGED, ArgumentError, "early_stopping is 'yes'"),
    ],
)
def test_what_cannot_be_is_refused(options, x, error, says):
    with pytest.raises(error, match=says):
        classifier(**options).fit(x, LABELS)


def test_other_sequences_than_at_fit_are_refused():
    model = classifier(epochs=1).fit(RAGGED, LABELS)
    with pytest.raises(ShapeError, match="of 3 features, but RNNClassifier is expecting 2"):
        model.predict([np.zeros((4, 3))])
    with pytest.raises(ValueError, match="only one class"):
        classifier().fit(RAGGED, ["up"] * 60)
