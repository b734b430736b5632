"""A detector on ZeroGPU, where a GPU is there for the length of a call, in a process forked for it.

Hugging Face's `spaces` package is installed on Spaces and nowhere else; without it, and on Spaces of other hardware, nothing
changes. Detectors are lent out once, when they are opened: the page's own by `app.py`, those of a comparison by `compare`. The
page, the API and the HTTP routes need not know.
"""

import weakref
from collections.abc import Callable
from functools import wraps

from realfake.detector import Detector

# Every method that runs the model. One that calls another stays in the process it is in.
METHODS = (
    "forward",
    "examine",
    "features",
    "logits",
    "scores",
    "log_odds",
    "predict",
    "explain",
    "stability",
)
SECONDS = 60


def lend(detector: Detector, seconds: int = SECONDS) -> Detector:
    """Run a detector's methods where the GPU is.

    Args:
        detector: Changed in place.
        seconds: What one call may take.
    """
    try:
        from spaces import GPU
        from spaces.config import Config
    except ImportError:
        return detector
    if Config.zero_gpu:
        for name in METHODS:
            setattr(detector, name, _lent(GPU, getattr(detector, name), seconds))
    return detector


def _lent(gpu: Callable, method: Callable, seconds: int) -> Callable:
    """Of an error in the other process only the class comes back; ours say what is wrong with an image."""
    # `spaces` keeps what it decorates for good: a detector that the page closes must not stay in memory with it.
    weak = weakref.WeakMethod(method)

    def carry(*args, **options):
        try:
            return weak()(*args, **options), None
        except (ValueError, OSError) as error:
            return None, error

    carry.__name__ = method.__name__
    lent = gpu(duration=seconds)(carry)

    @wraps(method)
    def call(*args, **options):
        result, error = lent(*args, **options)
        if error is not None:
            raise error
        return result

    return call
