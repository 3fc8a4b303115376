"""The moves of a chain that are loops and no matrix products: labels and single variances.

Compiled by Numba. The functions change their first arguments in place and take their randomness as
uniform numbers, so that a seed of the caller's generator fixes everything.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numba import njit

__all__ = [
    "DOF",
    "LEAST",
    "LOG_NOISE",
    "MOST",
    "MOST_SPREAD",
    "deal_labels",
    "draw_centre",
    "draw_cluster_variance",
    "draw_noise",
    "draw_scale",
    "draw_spread",
    "draw_variances",
    "split_or_merge",
    "swap_variances",
]

DOF = 4.0
"""Degrees of freedom of the half-t priors of standard deviations: a scale that data do not bound,
such as that of an effect which separates two classes, stays within a few of its prior's."""

LEAST = -18.0
"""The smallest logarithm of a variance: below it nothing can be told from 0."""

MOST = math.log(4.0)
"""The largest logarithm of a variance. Where features are standardised, a standard deviation of 2
is more than weights have; without a bound, effects that separate two classes run away."""

MOST_SPREAD = math.log(9.0)
"""The largest logarithm of the variance of logarithms."""

LOG_NOISE = (math.log(0.5), 2.0)
"""Mean and standard deviation of the centre of the tasks' log variances of noise, where targets
have the variance 1. Data do not bound a noise from below where a task is fitted exactly."""

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


@njit(cache=True, fastmath=True)
def _log_evidence(
    precision: Array, shift: Array, variance: float, k: int, task: int, work: Array
) -> float:
    """Log of the integral of the rows' sites over c ~ N(0, variance I), with one site more.

    :param precision: ``[M, K, q, q]``; ``shift``: ``[M, K, q]``; M clusters' sums, then the tasks'.
    :param k: which of the M; -1 for none.
    :param task: which is added; -1 for none.
    :param work: room for ``[q + 1, q]``.
    """
    rows, q = shift.shape[1:]
    total = 0.0
    for row in range(rows):
        for i in range(q):
            white = 0.0
            if k >= 0:
                white += shift[k, row, i]
            if task >= 0:
                white += shift[task, row, i]
            for j in range(i + 1):
                s = 0.0
                if k >= 0:
                    s += precision[k, row, i, j]
                if task >= 0:
                    s += precision[task, row, i, j]
                work[i, j] = variance * s
            work[i, i] += 1.0
            for j in range(i):
                s = work[i, j]
                for p in range(j):
                    s -= work[i, p] * work[j, p]
                s /= work[j, j]
                work[i, j] = s
                white -= s * work[q, j]
            d = work[i, i]
            for p in range(i):
                d -= work[i, p] * work[i, p]
            d = math.sqrt(d)
            work[i, i] = d
            white /= d
            work[q, i] = white
            total += 0.5 * variance * white * white - math.log(d)
    return total


@njit(cache=True)
def _move(precision: Array, shift: Array, k: int, task: int, sign: float) -> None:
    """Put a task's site into a cluster's sums (1), take it out (-1), or clear them (0)."""
    rows, q = shift.shape[1:]
    for row in range(rows):
        for i in range(q):
            if sign == 0.0:
                shift[k, row, i] = 0.0
            else:
                shift[k, row, i] += sign * shift[task, row, i]
            for j in range(q):
                if sign == 0.0:
                    precision[k, row, i, j] = 0.0
                else:
                    precision[k, row, i, j] += sign * precision[task, row, i, j]


@njit(cache=True)
def _pick(log_weights: Array, count: int, uniform: float) -> int:
    top = -np.inf
    for k in range(count):
        top = max(top, log_weights[k])
    total = 0.0
    for k in range(count):
        log_weights[k] = math.exp(log_weights[k] - top)
        total += log_weights[k]
    left = uniform * total
    for k in range(count):
        left -= log_weights[k]
        if left < 0.0:
            return k
    for k in range(count - 1, -1, -1):  # rounding: the last that has any weight
        if log_weights[k] > 0.0:
            return k
    return 0


@njit(cache=True)
def deal_labels(
    labels: Array,
    precision: Array,
    shift: Array,
    variance: float,
    gamma: float,
    log_new: Array,
    order: Array,
    uniform: Array,
) -> None:
    """Deal every task anew, in turn, centres integrated out (collapsed Gibbs sampling).

    :param labels: ``[T]``, changed in place; numbers below T.
    :param precision: of the sites of c_k, ``[2 T, K, q, q]``, the tasks' in the second half, room
        for sums in the first; ``shift``: ``[2 T, K, q]`` alike.
    :param variance: B.
    :param gamma: weight of an occupied cluster beyond its size.
    :param log_new: log weight of a new cluster by the number occupied, ``[T + 1]``.
    :param order: of the tasks; ``uniform``: a number for each, ``[T]``.
    """
    num_tasks = len(labels)
    room = num_tasks  # the sums stand first, then the tasks
    q = shift.shape[2]
    counts = np.zeros(room, np.int64)
    evidence = np.zeros(room)
    joined = np.zeros(room)
    log_weights = np.zeros(room)
    work = np.zeros((q + 1, q))
    for k in range(room):
        _move(precision, shift, k, 0, 0.0)
    for t in range(num_tasks):
        _move(precision, shift, labels[t], room + t, 1.0)
        counts[labels[t]] += 1
    occupied = 0
    most = 0
    for k in range(room):
        if counts[k] > 0:
            occupied += 1
            most = k + 1
            evidence[k] = _log_evidence(precision, shift, variance, k, -1, work)
    for step in range(num_tasks):
        t = order[step]
        own = labels[t]
        counts[own] -= 1
        if counts[own] == 0:
            occupied -= 1
            _move(precision, shift, own, 0, 0.0)
        else:
            _move(precision, shift, own, room + t, -1.0)
            evidence[own] = _log_evidence(precision, shift, variance, own, -1, work)
        empty = -1
        for k in range(min(most + 1, room)):
            log_weights[k] = -np.inf
            if counts[k] > 0:
                joined[k] = _log_evidence(precision, shift, variance, k, room + t, work)
                log_weights[k] = math.log(counts[k] + gamma) + joined[k] - evidence[k]
            elif empty < 0:
                empty = k
                joined[k] = _log_evidence(precision, shift, variance, -1, room + t, work)
                log_weights[k] = log_new[occupied] + joined[k]
        own = _pick(log_weights, min(most + 1, room), uniform[step])
        labels[t] = own
        most = max(most, own + 1)
        if counts[own] == 0:
            occupied += 1
        counts[own] += 1
        _move(precision, shift, own, room + t, 1.0)
        evidence[own] = joined[own]


@njit(cache=True)
def split_or_merge(
    labels: Array,
    precision: Array,
    shift: Array,
    variance: float,
    gamma: float,
    log_new: Array,
    first: int,
    second: int,
    order: Array,
    uniform: Array,
) -> bool:
    """Propose to split the cluster of two tasks, or to merge the clusters of the two.

    The members are dealt one by one between two clusters that start with the two tasks; for a merge
    the chance of the way back is taken along the members as they are (sequentially allocated
    merge-split; Dahl and Newcomb, Journal of Statistical Computation and Simulation, 2022).

    :param first: a task; ``second``: another.
    :param uniform: ``[T + 1]``, the last for the acceptance.
    :return: whether the proposal was accepted; ``labels`` are changed in place. The other
        parameters are those of :func:`deal_labels`.
    """
    num_tasks = len(labels)
    q = shift.shape[2]
    work = np.zeros((q + 1, q))
    a, b = labels[first], labels[second]
    splits = a == b
    counts = np.ones(2, np.int64)
    evidence = np.zeros(2)
    joined = np.zeros(2)
    sides = np.full(num_tasks, -1)
    sides[first] = 0
    sides[second] = 1
    for side in range(2):
        _move(precision, shift, side, 0, 0.0)
        _move(precision, shift, side, num_tasks + (first if side == 0 else second), 1.0)
        evidence[side] = _log_evidence(precision, shift, variance, side, -1, work)
    log_q = 0.0
    for step in range(num_tasks):
        t = order[step]
        if t in (first, second) or labels[t] not in (a, b):
            continue
        for side in range(2):
            joined[side] = _log_evidence(precision, shift, variance, side, num_tasks + t, work)
        odds = math.log((counts[1] + gamma) / (counts[0] + gamma))
        odds += joined[1] - evidence[1] - joined[0] + evidence[0]
        log_p0 = -math.log1p(math.exp(odds)) if odds < 0.0 else -odds - math.log1p(math.exp(-odds))
        if splits:
            side = 0 if uniform[step] < math.exp(log_p0) else 1
        else:
            side = 0 if labels[t] == a else 1
        log_q += log_p0 if side == 0 else odds + log_p0
        sides[t] = side
        _move(precision, shift, side, num_tasks + t, 1.0)
        counts[side] += 1
        evidence[side] = joined[side]
    _move(precision, shift, 0, 1, 1.0)  # the sums of both sides
    whole = _log_evidence(precision, shift, variance, 0, -1, work)
    seen = np.zeros(num_tasks + 1, np.bool_)
    occupied = 0
    for t in range(num_tasks):
        if not seen[labels[t]]:
            seen[labels[t]] = True
            occupied += 1
    together = occupied if splits else occupied - 1
    log_ratio = (  # of the split against the merged partition
        log_new[together]
        + math.lgamma(gamma + counts[0])
        + math.lgamma(gamma + counts[1])
        - math.lgamma(gamma + counts[0] + counts[1])
        - math.lgamma(gamma + 1.0)
        + evidence[0]
        + evidence[1]
        - whole
        - log_q
    )
    if math.log(uniform[num_tasks]) >= (log_ratio if splits else -log_ratio):
        return False
    free = 0
    while seen[free]:
        free += 1
    for t in range(num_tasks):
        if splits and sides[t] == 1:
            labels[t] = free
        elif not splits and sides[t] >= 0:
            labels[t] = a
    return True


@njit(cache=True, fastmath=True)
def _log_half_t(variance: float, scale2: float) -> float:
    """Log density of log V where sqrt(V) is half-t of this scale, less its normaliser."""
    return 0.5 * math.log(variance) - 0.5 * (DOF + 1.0) * math.log1p(variance / (DOF * scale2))


def _slice(density: Any) -> Any:
    """Slice sampling of a number: stepping out, then shrinking (Neal, Annals of Statistics, 2003).

    :param density: a compiled function of a number and of a tuple of what is given: the log of the
        number's density.
    :return: a compiled function, which draws the next number.
    """

    @njit
    def draw(given: Any, old: float, width: float, most: float, uniform: Array) -> float:
        """The next number; a step out has this width, and there are at most eight a side."""
        height = density(old, given) + math.log(max(uniform[0], 1e-300))
        low = old - width * uniform[1]
        high = low + width
        for _ in range(8):
            if low <= LEAST or density(low, given) < height:
                break
            low -= width
        for _ in range(8):
            if high >= most or density(high, given) < height:
                break
            high += width
        low, high = max(low, LEAST), min(high, most)
        for i in range(2, 32):
            x = low + (high - low) * uniform[i]
            if density(x, given) >= height:
                return x
            if x < old:
                low = x
            else:
                high = x
        return old

    return draw


@njit(cache=True, fastmath=True)
def _site_evidence(
    precision: Array, shift: Array, n: int, weight: float, sd: Array, work: Array
) -> float:
    """Log of the integral of one site, raised to a power, over N(0, diag sd^2)."""
    q = len(sd)
    total = 0.0
    for i in range(q):
        white = weight * sd[i] * shift[n, i]
        for j in range(i):
            s = weight * sd[i] * precision[n, i, j] * sd[j]
            for p in range(j):
                s -= work[i, p] * work[j, p]
            s /= work[j, j]
            work[i, j] = s
            white -= s * work[q, j]
        d = 1.0 + weight * sd[i] * precision[n, i, i] * sd[i]
        for p in range(i):
            d -= work[i, p] * work[i, p]
        d = math.sqrt(d)
        work[i, i] = d
        white /= d
        work[q, i] = white
        total += 0.5 * white * white - math.log(d)
    return total


@njit(cache=True, fastmath=True)
def _scaled_evidence(
    precision: Array, shift: Array, variance: Array, chosen: Array, log_factor: float, work: Array
) -> float:
    """Log of the integral of all sites over N(0, V), the chosen entries of V multiplied.

    :param precision: ``[N, q, q]``; ``shift``: ``[N, q]``; ``variance``, ``chosen``: ``[q]``.
    """
    sd = np.sqrt(variance)
    for i in range(len(sd)):
        if chosen[i]:
            sd[i] *= math.exp(0.5 * log_factor)
    total = 0.0
    for n in range(shift.shape[0]):
        total += _site_evidence(precision, shift, n, 1.0, sd, work)
    return total


@njit(cache=True)
def _log_of_centre(x: float, given: Any) -> float:
    mean, variance, scale2 = given
    return _log_half_t(math.exp(x), scale2) - 0.5 * (x - mean) ** 2 / variance


_slice_of_centre = _slice(_log_of_centre)


@njit(cache=True)
def draw_centre(
    log_variances: Array, centre: float, spread: float, scale2: float, uniform: Array
) -> float:
    """Draw the mean of some normal log variances; its root, exponentiated, is half-t.

    :param log_variances: log V by group; ``centre``: their mean as it is; ``spread``: variance.
    :param scale2: the squared scale of the half-t prior of ``exp(centre / 2)``.
    :param uniform: ``[32]``.
    """
    given = (log_variances.mean(), spread / len(log_variances), scale2)
    return _slice_of_centre(given, centre, 2.0, MOST, uniform)


@njit(cache=True)
def _log_of_scale(x: float, given: Any) -> float:
    precision, shift, variance, chosen, old, scale2, work = given
    evidence = _scaled_evidence(precision, shift, variance, chosen, x - old, work)
    return evidence + _log_half_t(math.exp(x), scale2)


_slice_of_scale = _slice(_log_of_scale)


@njit(cache=True)
def draw_scale(
    precision: Array,
    shift: Array,
    variance: Array,
    chosen: Array,
    level: float,
    scale2: float,
    uniform: Array,
) -> float:
    """Draw a factor for some variances at once, what they are the variances of integrated out.

    :param precision: of the sites of N(0, V), ``[N, q, q]``; ``shift``: ``[N, q]``.
    :param variance: V, ``[q]``; ``chosen``: which of its entries are multiplied, ``[q]`` bool.
    :param level: the variance whose root is half-t of the scale ``sqrt(scale2)``, now.
    :param uniform: ``[32]``.
    :return: the factor.
    """
    work = np.empty((len(variance) + 1, len(variance)))
    old = math.log(level)
    given = (precision, shift, variance, chosen, old, scale2, work)
    return math.exp(_slice_of_scale(given, old, 1.0, MOST, uniform) - old)


@njit(cache=True)
def _log_of_spread(x: float, given: Any) -> float:
    precision, shift, log_variance, chosen, centre, old, scale2, sd, work = given
    stretch = math.exp(0.5 * (x - old))
    for j in range(len(sd)):
        if chosen[j]:
            log_sd = 0.5 * (centre + stretch * (log_variance[j] - centre))
            if log_sd > 0.5 * MOST or log_sd < 0.5 * LEAST:
                return -np.inf
            sd[j] = math.exp(log_sd)
    total = _log_half_t(math.exp(x), scale2)
    for n in range(shift.shape[0]):
        total += _site_evidence(precision, shift, n, 1.0, sd, work)
    return total


_slice_of_spread = _slice(_log_of_spread)


@njit(cache=True)
def draw_spread(
    precision: Array,
    shift: Array,
    variance: Array,
    chosen: Array,
    centre: float,
    spread: float,
    scale2: float,
    uniform: Array,
) -> float:
    """Draw how far the logarithms of some variances are apart, standardised ones kept.

    :param variance: V, ``[q]``, changed in place where ``chosen``.
    :param centre: of log V; ``spread``: the variance of log V, whose root is half-t of the scale
        ``sqrt(scale2)``.
    :return: the new spread. The other parameters are those of :func:`draw_scale`.
    """
    q = len(variance)
    work, sd, log_variance = np.empty((q + 1, q)), np.sqrt(variance), np.zeros(q)
    for j in range(q):
        if chosen[j]:
            log_variance[j] = math.log(variance[j])
    old = math.log(spread)
    given = (precision, shift, log_variance, chosen, centre, old, scale2, sd, work)
    new = _slice_of_spread(given, old, 2.0, MOST_SPREAD, uniform)
    stretch = math.exp(0.5 * (new - old))
    for j in range(q):
        if chosen[j]:
            variance[j] = math.exp(centre + stretch * (log_variance[j] - centre))
    return math.exp(new)


@njit(cache=True, fastmath=True)
def _log_marginal(
    precision: Array, shift: Array, variance: float, of_mean: Array, none: Array, work: Array
) -> float:
    """Log of the integral of the clusters' sites over c_k ~ N(0, variance I) and m ~ N(0, A).

    :param precision: ``[M, K, q, q]``; ``shift``: ``[M, K, q]``; ``of_mean``: A, ``[K, q]``.
    :param none: ``[q]``, all False; ``work``: room for ``[q + 1, q]``.
    """
    slots, rows, q = shift.shape
    total = 0.0
    seen = np.zeros((1, q, q))  # what the clusters say of m
    moved = np.zeros((1, q))
    left = np.zeros((q, q))  # R^-1 Lambda, R the factor of I + variance Lambda
    for row in range(rows):
        for i in range(q):
            moved[0, i] = 0.0
            for j in range(q):
                seen[0, i, j] = 0.0
        for k in range(slots):
            if precision[k, row, 0, 0] == 0.0 and shift[k, row, 0] == 0.0:
                continue  # an empty slot
            total += _log_evidence(
                precision[:, row : row + 1], shift[:, row : row + 1], variance, k, -1, work
            )
            for i in range(q):
                for j in range(q):
                    s = precision[k, row, i, j]
                    for p in range(i):
                        s -= work[i, p] * left[p, j]
                    left[i, j] = s / work[i, i]
            for p in range(q):
                for i in range(q):
                    by = variance * left[p, i]
                    moved[0, i] -= by * work[q, p]
                    for j in range(q):
                        seen[0, i, j] -= by * left[p, j]
            for i in range(q):
                moved[0, i] += shift[k, row, i]
                for j in range(q):
                    seen[0, i, j] += precision[k, row, i, j]
        total += _scaled_evidence(seen, moved, of_mean[row], none, 0.0, work)
    return total


@njit(cache=True)
def _log_of_clusters(x: float, given: Any) -> float:
    precision, shift, of_mean, scale2, none, work = given
    variance = math.exp(x)
    evidence = _log_marginal(precision, shift, variance, of_mean, none, work)
    return evidence + _log_half_t(variance, scale2)


_slice_of_clusters = _slice(_log_of_clusters)


@njit(cache=True)
def draw_cluster_variance(
    precision: Array,
    shift: Array,
    level: float,
    of_mean: Array,
    scale2: float,
    uniform: Array,
) -> float:
    """Draw B, with the clusters' centres and the global mean integrated out.

    :param precision: of the clusters' sites of m + c_k, ``[M, K, q, q]``; ``shift``: ``[M, K, q]``.
    :param level: B as it is; its root is half-t of the scale ``sqrt(scale2)``.
    :param of_mean: A, ``[K, q]``.
    :param uniform: ``[32]``.
    """
    q = shift.shape[2]
    work, none = np.zeros((q + 1, q)), np.zeros(q, np.bool_)
    given = (precision, shift, of_mean, scale2, none, work)
    return math.exp(_slice_of_clusters(given, math.log(level), 3.0, MOST, uniform))


@njit(cache=True, fastmath=True)
def _gain(log_new: float, given: Any) -> float:
    """Log density at a new V_j, with its prior, less that of the data at the old."""
    covariance, moved, j, old, centre, spread = given
    new = math.exp(log_new)
    change = 1.0 / new - 1.0 / old
    total = -0.5 * (log_new - centre) ** 2 / spread
    product = 1.0
    for n in range(moved.shape[0]):
        grown = 1.0 + change * covariance[n, j, j]
        total -= 0.5 * change * moved[n, j] * moved[n, j] / grown
        product *= grown * new / old
        if n % 8 == 7:
            total -= 0.5 * math.log(product)
            product = 1.0
    return total - 0.5 * math.log(product)


_slice_of_gain = _slice(_gain)


@njit(cache=True, fastmath=True)
def _given_base(
    precision: Array,
    shift: Array,
    variance: Array,
    n: int,
    covariance: Array,
    moved: Array,
    work: Array,
) -> None:
    """S = V^1/2 (I + V^1/2 Lambda V^1/2)^-1 V^1/2 and u = S h of one site."""
    q = len(variance)
    for i in range(q):  # the factor R of the inner matrix
        for j in range(i + 1):
            s = math.sqrt(variance[i]) * precision[n, i, j] * math.sqrt(variance[j])
            if i == j:
                s += 1.0
            for p in range(j):
                s -= work[i, p] * work[j, p]
            work[i, j] = math.sqrt(s) if i == j else s / work[j, j]
    for column in range(q):  # R^-1, below the diagonal, into the covariance's own room
        for i in range(column, q):
            s = 1.0 if i == column else 0.0
            for p in range(column, i):
                s -= work[i, p] * covariance[n, p, column]
            covariance[n, i, column] = s / work[i, i]
    for i in range(q):  # R^-T R^-1; row i needs what stands below it, which is not yet written
        for j in range(i + 1):
            s = 0.0
            for p in range(i, q):
                s += covariance[n, p, i] * covariance[n, p, j]
            work[i, j] = s
    for i in range(q):
        for j in range(i + 1):
            s = math.sqrt(variance[i]) * work[i, j] * math.sqrt(variance[j])
            covariance[n, i, j] = s
            covariance[n, j, i] = s
    for i in range(q):
        moved[n, i] = 0.0
        for j in range(q):
            moved[n, i] += covariance[n, i, j] * shift[n, j]


@njit(cache=True, fastmath=True)
def draw_variances(
    variance: Array,
    entries: Array,
    precision: Array,
    shift: Array,
    centre: float,
    spread: float,
    uniform: Array,
) -> None:
    """Draw single entries of V in turn with the weights integrated out, given the bases m + c_k.

    With S = (Lambda + 1 / V)^-1 and u = S (h - Lambda base), a change of 1 / V_j by d multiplies
    the density of a task's data by

        sqrt(V_j / V_j') (1 + d S_jj)^(-1/2) exp(-d u_j^2 / (1 + d S_jj) / 2),

    so that looking at a new value costs T numbers, and taking it a rank-one update of S.

    :param variance: V, ``[q]``, changed in place; ``entries``: which to draw.
    :param precision: Lambda, ``[N, q, q]``, N = T K; ``shift``: h - Lambda base, ``[N, q]``.
    :param centre: mean of log V_j, which is normal; ``spread``: its variance.
    :param uniform: ``[q, 32]``.
    """
    count, q = shift.shape
    covariance = np.zeros((count, q, q))
    moved = np.zeros((count, q))
    work = np.zeros((q, q))
    for n in range(count):
        _given_base(precision, shift, variance, n, covariance, moved, work)
    for j in entries:
        old = variance[j]
        given = (covariance, moved, j, old, centre, spread)
        value = math.exp(_slice_of_gain(given, math.log(old), 2.0, MOST, uniform[j]))
        change = 1.0 / value - 1.0 / old
        variance[j] = value
        if change == 0.0:
            continue
        for n in range(count):
            factor = change / (1.0 + change * covariance[n, j, j])
            step = factor * moved[n, j]
            column = covariance[n, j].copy()
            for i in range(q):
                moved[n, i] -= step * column[i]
                scaled = factor * column[i]
                for p in range(q):
                    covariance[n, i, p] -= scaled * column[p]


@njit(cache=True)
def swap_variances(
    variance: Array, entries: Array, precision: Array, shift: Array, uniform: Array
) -> None:
    """Propose to exchange one of the three largest entries of V and another (Metropolis steps).

    Features that are constant within a task, such as a patient's age, explain what an intercept per
    task explains as well; no move of single variances leads from the one to the other.

    :param variance: V, ``[q]``, changed in place; ``entries``: which may be exchanged.
    :param precision: of the sites of N(0, V), ``[N, q, q]``; ``shift``: ``[N, q]``.
    :param uniform: ``[proposals, 3]``.
    """
    q, count = len(variance), len(entries)
    sd, work = np.sqrt(variance), np.empty((q + 1, q))
    current = 0.0
    for n in range(len(shift)):
        current += _site_evidence(precision, shift, n, 1.0, sd, work)
    for step in range(len(uniform)):
        # The ranks stay as they are, so that the way back has the same chance.
        largest = np.argsort(-variance[entries])
        i = entries[largest[int(uniform[step, 0] * min(3, count))]]
        j = entries[int(uniform[step, 1] * count)]
        sd[i], sd[j] = sd[j], sd[i]
        proposed = 0.0
        for n in range(len(shift)):
            proposed += _site_evidence(precision, shift, n, 1.0, sd, work)
        if math.log(max(uniform[step, 2], 1e-300)) < proposed - current:
            current = proposed
            variance[i], variance[j] = variance[j], variance[i]
        else:
            sd[i], sd[j] = sd[j], sd[i]


@njit(cache=True, fastmath=True)
def _log_of_noise(log_noise: float, given: Any) -> float:
    """Log density of one task's targets, of this log variance of noise, with e integrated out."""
    precision, shift, squares, counts, n, centre, between, sd, work = given
    weight = math.exp(-log_noise)
    out = -0.5 * (counts[n] * log_noise + weight * squares[n])
    out -= 0.5 * (log_noise - centre) ** 2 / between
    return out + _site_evidence(precision, shift, n, weight, sd, work)


_slice_of_noise = _slice(_log_of_noise)


@njit(cache=True, fastmath=True)
def draw_noise(
    log_noise: Array,
    precision: Array,
    shift: Array,
    squares: Array,
    counts: Array,
    variance: Array,
    centre: float,
    between: float,
    scale2: float,
    uniform: Array,
) -> tuple[float, float]:
    """Draw the noise of every task, and the mean and variance of its logarithm across tasks.

    The noise is drawn with the task's deviation integrated out, given its base: by slice sampling
    under N(centre, between) first; then centre and spread are moved with the standardised logs kept
    (Metropolis steps), for where data say little of single tasks.

    :param log_noise: log variances, ``[N]``, changed in place.
    :param precision: of sites with a noise of 1, ``[N, q, q]``; ``shift``: less what the base
        explains, ``[N, q]``; ``squares``: the sum of squared residuals of the base, ``[N]``.
    :param counts: samples, ``[N]``; ``variance``: V, ``[q]``.
    :param scale2: the squared scale of the spread, which is half-t.
    :param uniform: ``[N + 1, 32]``.
    :return: centre and variance of the logarithms.
    """
    count = len(log_noise)
    sd = np.sqrt(variance)
    work = np.zeros((len(sd) + 1, len(sd)))
    current = np.zeros(count)
    for n in range(count):
        given = (precision, shift, squares, counts, n, centre, between, sd, work)
        log_noise[n] = _slice_of_noise(given, log_noise[n], 1.0, -LEAST, uniform[n])
        current[n] = _log_of_noise(log_noise[n], given)
    # With the standardised logs kept: the spread, then the centre.
    for step in range(4):
        new_centre, new_between, log_ratio = centre, between, 0.0
        if step % 2 == 0:
            new_between = between * math.exp(3.0 * (uniform[count, 4 * step] - 0.5))
            log_ratio = _log_half_t(new_between, scale2) - _log_half_t(between, scale2)
        else:
            width = 4.0 / math.sqrt(max(counts.sum(), 1.0))
            new_centre = centre + width * (uniform[count, 4 * step] - 0.5)
            log_ratio = -0.5 * ((new_centre - LOG_NOISE[0]) / LOG_NOISE[1]) ** 2
            log_ratio += 0.5 * ((centre - LOG_NOISE[0]) / LOG_NOISE[1]) ** 2
        stretch = math.sqrt(new_between / between)
        proposed = np.zeros(count)
        for n in range(count):
            x = new_centre + stretch * (log_noise[n] - centre)
            if abs(x) > 20.0:  # beyond what numbers can tell from 0 or infinity
                log_ratio = -np.inf
                break
            given = (precision, shift, squares, counts, n, new_centre, new_between, sd, work)
            proposed[n] = _log_of_noise(x, given)
            log_ratio += proposed[n] - current[n]
        if math.log(max(uniform[count, 4 * step + 1], 1e-300)) < log_ratio:
            for n in range(count):
                log_noise[n] = new_centre + stretch * (log_noise[n] - centre)
                current[n] = proposed[n]
            centre, between = new_centre, new_between
    return centre, between
