"""scikit-learn's estimators on our kernels: for pipelines, grids and cross-validation.

>>> import numpy as np
>>> from sklearn.model_selection import cross_val_score
>>> from rnn_gpu.sklearn import RNNClassifier
>>> rng = np.random.default_rng(0)
>>> X = [rng.normal(size=(T, 2)) for T in rng.integers(3, 9, 30)]  # sequences (T_i, m)
>>> y = ["up" if x[0, 0] > 0 else "down" for x in X]
>>> scores = cross_val_score(RNNClassifier(hidden_size=8, device="cpu"), X, y, cv=3)
"""

from .bridges.sklearn import RNNClassifier, RNNRegressor

__all__ = ["RNNClassifier", "RNNRegressor"]
