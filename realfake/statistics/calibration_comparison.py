"""What a more flexible calibration would have gained: beta and isotonic calibration beside temperature and bias.

Neither can be folded into a linear layer, so no checkpoint is calibrated with them; their cross-validated NLL says whether
that costs anything. Works on arrays of margins: numpy and scipy alone.
"""

import numpy as np
from scipy.optimize import isotonic_regression, minimize
from scipy.special import expit, log_expit, logit

from realfake.statistics.calibration import METHODS, fit, folds
from realfake.statistics.log_odds import check_log_odds, class_balanced_weights
from realfake.statistics.metrics import nll


def fit_beta(log_odds, is_ai):
    """Beta calibration (Kull, Silva Filho and Flach 2017): log-odds `a log p - b log(1 - p) + c` with a, b >= 0.

    With a = b it is temperature and bias. Classes are weighted alike.

    Args:
        log_odds: (n,) log-odds of ai.
        is_ai: (n,) bool, of both classes.

    Returns:
        A function from margins to calibrated margins.
    """
    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    weights = class_balanced_weights(is_ai)

    def features(x):
        return np.stack([log_expit(x), -log_expit(-x), np.ones_like(x)], axis=1)

    design = features(log_odds)

    def value_and_gradient(x):
        z = design @ x
        return weights @ (np.logaddexp(0, z) - is_ai * z), design.T @ (weights * (expit(z) - is_ai))

    bounds = [(0, None), (0, None), (None, None)]
    options = {"ftol": 1e-14, "gtol": 1e-9, "maxiter": 1000}
    found = minimize(
        value_and_gradient,
        [1.0, 1.0, 0.0],
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options=options,
    )
    return lambda x: features(np.asarray(x, dtype=np.float64)) @ found.x


def fit_isotonic(log_odds, is_ai):
    """Isotonic calibration (Zadrozny and Elkan 2002): the step function that rises and fits best, linear between its steps.

    Probabilities are kept from 0 and 1 by half an image of the class, or the NLL would be infinite. Classes are weighted
    alike.

    Args, Returns:
        As [`fit_beta`].
    """
    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    values, index = np.unique(log_odds, return_inverse=True)
    weights = class_balanced_weights(is_ai)
    mass = np.bincount(index, weights)
    steps = isotonic_regression(np.bincount(index, weights * is_ai) / mass, weights=mass).x
    n_ai = int(is_ai.sum())
    steps = logit(steps.clip(0.5 / (len(is_ai) - n_ai + 1), 1 - 0.5 / (n_ai + 1)))
    return lambda x: np.interp(np.asarray(x, dtype=np.float64), values, steps)


def cross_validated_nll(
    log_odds, is_ai, groups=None, n_folds: int = 5, seed: int = 0
) -> dict[str, float] | None:
    """The class-balanced NLL in nats that each method reaches on images that it was not fitted on.

    Args:
        log_odds: (n,) log-odds of ai of a two-class model.
        is_ai: (n,) bool.
        groups: (n,), *optional*. Images of a group stay in one fold.

    Returns:
        `{"identity", "temperature", "temperature_bias", "beta", "isotonic"}`, or `None` where a class has fewer than two
        groups.

    Raises:
        ValueError: Shapes differ, there are no images, or a margin is NaN.
    """
    log_odds, is_ai = check_log_odds(log_odds, is_ai)
    fold = folds(is_ai, groups, n_folds, seed)
    if fold is None:
        return None
    fitters = {name: _linear(name) for name in METHODS} | {
        "beta": fit_beta,
        "isotonic": fit_isotonic,
    }
    weights = class_balanced_weights(is_ai)
    held_out = {name: np.empty(len(log_odds)) for name in fitters}
    for k in range(fold.max() + 1):
        test = fold == k
        for name, fitter in fitters.items():
            held_out[name][test] = fitter(log_odds[~test], is_ai[~test])(log_odds[test])
    return {name: nll(calibrated, is_ai, weights) for name, calibrated in held_out.items()}


def _linear(method: str):
    return lambda log_odds, is_ai: fit(log_odds, is_ai, method).apply
