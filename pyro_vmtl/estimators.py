"""The scikit-learn door: estimators that learn tasks together and predict them one by one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from pyro_vmtl.data import TaskSet, read_rows, read_table, split_tasks
from pyro_vmtl.data.preparation import Gaps
from pyro_vmtl.errors import InputError
from pyro_vmtl.inference import FittedVMTL, Predictions, TrainingSettings, fit
from pyro_vmtl.inspection import gains, relatedness
from pyro_vmtl.model import Architecture, Encoder, Family, Likelihood, Pool, Settings

__all__ = ["VMTLClassifier", "VMTLRegressor"]

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_log = logging.getLogger(__name__)

_TASK, _TARGET = "(task)", "(target)"  # columns of the table that is made of X, tasks and y
_ALONE = "all rows"
_NO_Y = (
    "The estimator requires y to be passed, but the target y is None; expected one for each row."
)


class _Estimator(BaseEstimator):
    """What classifier and regressor share."""

    def __init__(
        self,
        task: str | None = None,
        pool: Pool | None = None,
        encoder: Architecture | Encoder | None = None,
        likelihood: Family | Likelihood | None = None,
        training: TrainingSettings | None = None,
        gaps: Gaps = "impute",
        categories: Sequence[str] = (),
        validation: float = 0.2,
        num_samples: int = 200,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.task = task
        self.pool = pool
        self.encoder = encoder
        self.likelihood = likelihood
        self.training = training
        self.gaps = gaps
        self.categories = categories
        self.validation = validation
        self.num_samples = num_samples
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.gaps == "impute"
        return tags

    # Tables from what scikit-learn hands over

    def _frame(self, X: Any, tasks: Any, reset: bool) -> pd.DataFrame:
        """X as a frame with the tasks in a column of their own."""
        if isinstance(X, pd.DataFrame):
            # Columns may be of any type; names and their number must be those of training.
            validate_data(self, X, skip_check_array=True, reset=reset)
            if not len(X):
                raise InputError("X has 0 rows; expected one per sample.")
            frame = X.reset_index(drop=True)
            frame.columns = [str(name) for name in frame.columns]
        else:
            finite = "allow-nan" if self.gaps == "impute" else True
            X = _array("X", X)
            values = validate_data(self, X, reset=reset, ensure_all_finite=finite, dtype="numeric")
            width = len(str(values.shape[1] - 1))
            frame = pd.DataFrame(values, columns=[f"x{d:0{width}}" for d in range(values.shape[1])])
        if tasks is not None:
            if self.task is not None:
                raise InputError(
                    f"task is {self.task!r}, a column, and tasks were given as well; expected one "
                    "or the other."
                )
            named = np.asarray(column_or_1d(tasks))
            if len(named) != len(frame):
                raise InputError(
                    f"tasks has {len(named)} entries; expected {len(frame)}, as X has."
                )
        elif self.task is not None:
            if self.task not in frame.columns:
                raise InputError(
                    f"X has no column {self.task!r}; expected the column of the tasks among "
                    f"{list(frame.columns)[:20]}."
                )
            named = frame.pop(self.task).to_numpy()
        else:
            named = np.full(len(frame), _ALONE, dtype=object)
        return frame.assign(**{_TASK: named})

    def _fit(self, X: Any, y: _Array, tasks: Any, classes: Sequence[str] | None) -> None:
        frame = self._frame(X, tasks, reset=True)
        if tasks is None and self.task is None:
            _log.warning("No tasks are named (task=..., or tasks): all rows are one task.")
        if len(y) != len(frame):
            raise InputError(f"y has {len(y)} entries; expected {len(frame)}, as X has rows.")
        if len(frame) < 2:
            raise InputError("X has 1 sample; expected two at least.")
        targets = [_TARGET] if y.ndim == 1 else [f"{_TARGET} {k}" for k in range(y.shape[1])]
        features = [name for name in frame.columns if name != _TASK]
        frame = frame.assign(**dict(zip(targets, y.reshape(len(y), -1).T, strict=True)))
        if not isinstance(self.num_samples, Integral) or self.num_samples < 1:
            raise InputError(
                f"num_samples is {self.num_samples!r}; expected a whole number above 0"
            )
        train = read_table(
            frame,
            _TASK,
            targets,
            features,
            classes,
            regression=classes is None,
            gaps=self.gaps,
            categories=self.categories,
        )
        settings = Settings(encoder=self.encoder, pool=self.pool, likelihood=self.likelihood)
        seed = int(check_random_state(self.random_state).randint(2**31))
        held_out: TaskSet | None = None
        if not settings.trains_no_encoder(train.input_shape, named=True):
            train, held_out, _ = split_tasks(train, float(self.validation), 0, seed)
        self._train: TaskSet = train
        self.fitted_: FittedVMTL = fit(
            train, held_out, settings, self.training, seed=seed, log_warnings=False
        )

    def _predictions(self, X: Any, tasks: Any) -> Predictions:
        check_is_fitted(self, "fitted_")
        frame = self._frame(X, tasks, reset=False)
        fitted = self.fitted_
        rows = read_rows(frame, fitted, new_tasks=True)
        unknown = rows.names[len(fitted.names) :]
        if unknown:  # predicted from the population of tasks
            fitted = fitted.add_task(rows.select(unknown).subset(torch.empty(0, dtype=torch.int64)))
        return fitted.predict(rows, self.num_samples)

    def _learn_new(self, X: Any, y: _Array, tasks: Any) -> None:
        frame = self._frame(X, tasks, reset=False)
        if len(y) != len(frame):
            raise InputError(f"y has {len(y)} entries; expected {len(frame)}, as X has rows.")
        fitted = self.fitted_
        assert fitted.columns is not None
        targets = fitted.columns.targets
        frame = frame.assign(**dict(zip(targets, y.reshape(len(y), -1).T, strict=True)))
        rows = read_rows(frame, fitted, new_tasks=True)
        old = [fitted.names[t] for t in rows.task.unique().tolist() if t < len(fitted.names)]
        if old:
            raise InputError(
                f"the rows are of the task {old[0]!r}, which has been learned; expected new tasks "
                "alone, or fit on all rows."
            )
        self.fitted_ = fitted.add_task(rows.select(rows.names[len(fitted.names) :]))

    @property
    def relatedness_(self) -> pd.DataFrame:
        """The chance that two tasks share a cluster, or what the pool says instead, ``[T, T]``.

        On the diagonal, and where there is no relatedness, it is NaN.
        """
        check_is_fitted(self, "fitted_")
        names = list(self.fitted_.names)
        table = relatedness(self.fitted_)
        table = table[table["site"] == "weights"]
        matrix = table.pivot_table(index="task", columns="other", values="probability")
        return matrix.reindex(index=names, columns=names)

    @property
    def gains_(self) -> pd.DataFrame:
        """How much sharing gains each task, from its left-out rows: :func:`pyro_vmtl.gains`.

        :raises InputError: where an encoder was trained, or after tasks have joined.
        """
        check_is_fitted(self, "fitted_")
        return gains(self.fitted_, self._train)

    @property
    def task_names_(self) -> tuple[str, ...]:
        """The names of the tasks."""
        check_is_fitted(self, "fitted_")
        return self.fitted_.names


class VMTLClassifier(ClassifierMixin, _Estimator):
    """Classification of several related tasks: :func:`pyro_vmtl.fit` as scikit-learn knows it.

    Tasks are a column of X, or handed over as ``tasks`` (scikit-learn's metadata routing takes it
    along: ``set_fit_request(tasks=True)``). Frames may hold text, truth values, dates and gaps, see
    :class:`pyro_vmtl.data.TablePreparation`; arrays hold numbers and NaN. A task that was not
    learned is predicted from the population of tasks.

    Example::

        model = VMTLClassifier(task="clinic").fit(patients, ill)
        model.predict_proba(new_patients)
        model.relatedness_  # which clinics are alike

    :param task: the column of X that says the task; None where ``tasks`` does.
    :param pool: the prior of the weights, by default :class:`pyro_vmtl.Nested`.
    :param encoder: see :class:`pyro_vmtl.Settings`.
    :param likelihood: likewise.
    :param training: how to train an encoder.
    :param gaps: ``"impute"`` or ``"refuse"``, for missing features.
    :param categories: columns that are text whatever they look like.
    :param validation: share of each task's rows by which the epoch is chosen where an encoder is
        trained; without one there is nothing to choose, and all rows are learned from.
    :param num_samples: posterior draws behind a prediction.
    :param random_state: of the fit.

    :ivar classes_: the C classes, sorted.
    :ivar fitted_: the model, :class:`pyro_vmtl.FittedVMTL`.
    """

    classes_: _Array

    def fit(self, X: Any, y: Any, tasks: Any = None) -> VMTLClassifier:
        """Learn all tasks together.

        :param X: a frame, or ``[N, D]``; ``y``: ``[N]`` labels; ``tasks``: ``[N]`` names, or None.
        :raises InputError: for what cannot be used, naming it.
        """
        self.classes_, codes = _labels(y)
        if len(self.classes_) < 2:
            raise InputError(f"y has 1 class, {self.classes_[0]!r}; expected two classes at least.")
        names = [str(number) for number in range(len(self.classes_))]
        self._fit(X, codes, tasks, names)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, tasks: Any = None) -> VMTLClassifier:
        """Learn new tasks; the old ones, the encoder and the scales stay as they are.

        Where nothing has been learned it is :meth:`fit`.

        :param classes: all labels there are, where ``y`` lacks some; they are those of the fit.
        """
        if not hasattr(self, "fitted_"):
            return self.fit(X, y, tasks)
        labels = np.asarray(y)
        unknown = labels[~np.isin(labels, self.classes_)]
        if len(unknown):
            raise InputError(
                f"y has {str(unknown[0])!r}; expected one of {self.classes_.tolist()}."
            )
        self._learn_new(X, np.searchsorted(self.classes_, labels), tasks)
        return self

    def predict_proba(self, X: Any, tasks: Any = None) -> _Array:
        """The probability of each class, ``[N, C]``."""
        chances: _Array = self._predictions(X, tasks).mean.double().numpy()
        return chances / chances.sum(1, keepdims=True)

    def predict(self, X: Any, tasks: Any = None) -> _Array:
        """The most probable class, ``[N]``."""
        chosen: _Array = self.predict_proba(X, tasks).argmax(1)
        found: _Array = self.classes_[chosen]
        return found

    def score(self, X: Any, y: Any, sample_weight: Any = None, tasks: Any = None) -> float:
        """The accuracy."""
        return float(accuracy_score(y, self.predict(X, tasks), sample_weight=sample_weight))


class VMTLRegressor(RegressorMixin, _Estimator):
    """Regression of several related tasks; see :class:`VMTLClassifier` for its parameters.

    Targets stay in their unit, in and out. Several outputs are allowed.
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = True
        return tags

    def fit(self, X: Any, y: Any, tasks: Any = None) -> VMTLRegressor:
        """Learn all tasks together.

        :param X: a frame, or ``[N, D]``; ``y``: ``[N]`` or ``[N, K]``; ``tasks``: ``[N]`` names.
        :raises InputError: for what cannot be used, naming it.
        """
        self._fit(X, _numbers(y), tasks, None)
        return self

    def partial_fit(self, X: Any, y: Any, tasks: Any = None) -> VMTLRegressor:
        """Learn new tasks; see :meth:`VMTLClassifier.partial_fit`."""
        if not hasattr(self, "fitted_"):
            return self.fit(X, y, tasks)
        self._learn_new(X, _numbers(y), tasks)
        return self

    def predict(self, X: Any, tasks: Any = None, return_std: bool = False) -> Any:
        """The mean of the targets, ``[N]`` or ``[N, K]``, and with it their standard deviation.

        :param return_std: whether to return both.
        """
        predictions = self._predictions(X, tasks)
        mean = predictions.mean.double().numpy()
        return (mean, predictions.sd.double().numpy()) if return_std else mean

    def predict_interval(self, X: Any, tasks: Any = None, coverage: float = 0.9) -> _Array:
        """Intervals that hold a target with this probability, ``[N, 2]`` or ``[N, K, 2]``."""
        ends = self._predictions(X, tasks).interval(coverage)
        interval: _Array = torch.stack(ends, -1).double().numpy()
        return interval

    def score(self, X: Any, y: Any, sample_weight: Any = None, tasks: Any = None) -> float:
        """R^2."""
        return float(r2_score(y, self.predict(X, tasks), sample_weight=sample_weight))


def _array(name: str, given: Any) -> Any:
    """A tensor as an array; all else as it is, for scikit-learn to look at."""
    if not isinstance(given, torch.Tensor):
        return given
    try:
        return given.detach().cpu().numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise InputError(
            f"{name} is a tensor of {given.dtype} and {given.layout} on {given.device}; expected a "
            "dense one of a type that NumPy has."
        ) from error


def _labels(y: Any) -> tuple[_Array, _Array]:
    """The classes, sorted, and the position of each label."""
    if y is None:
        raise InputError(_NO_Y)
    labels = column_or_1d(_array("y", y), warn=True)
    if not len(labels):
        raise InputError("y has 0 samples; expected two at least.")
    check_classification_targets(labels)
    classes, codes = np.unique(labels, return_inverse=True)
    return classes, codes


def _numbers(y: Any) -> _Array:
    if y is None:
        raise InputError(_NO_Y)
    y = _array("y", y)
    try:
        values = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
    except OverflowError as error:
        raise InputError("y has a number beyond all floats; expected them below 1e308.") from error
    if values.ndim == 2 and values.shape[1] == 1:
        values = column_or_1d(values, warn=True)
    found: _Array = values
    return found
