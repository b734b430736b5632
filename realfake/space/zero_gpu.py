"""A detector on ZeroGPU, where a GPU is available only during a call, in a forked process.

Hugging Face's `spaces` package exists on Spaces only. Without it, and on Spaces with other
hardware, nothing changes.
"""

from collections.abc import Callable
from functools import wraps

from realfake.detector import Detector

# The methods that run the model. Inside the forked process they call each other directly.
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
    """Run a detector's methods on ZeroGPU, if this is a ZeroGPU Space.

    Args:
        detector: Changed in place.
        seconds: The longest duration of one call.

    Returns:
        The same detector.
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
    # `spaces` passes on only the class of an error; the detector's errors have a message to show.
    def carry(*args, **options):
        try:
            return method(*args, **options), None
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
