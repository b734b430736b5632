"""Faster engines for the forward pass of a classifier, and the choice of one by measurement.

An engine takes float32 pixels and returns float32 logits. Engines in bfloat16 deviate from the
stock pipeline. [`choose`] measures the deviation, and [`Choice.doubtful`] returns the images that
need fp32 because their verdict or probability could change.

`scripts/benchmark.py --only scoring,deviations` measures the engines. OpenVINO is optional. ONNX
Runtime was not faster than OpenVINO, and `torch.compile` needs a compiler.
"""

import copy
import importlib.util
import logging
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.special import expit
from torch import nn

from realfake.detector import Detector
from realfake.models.folding import final_linears, fold_batch_norms
from realfake.models.ood import forward_with_features
from realfake.prediction import Scores
from realfake.runtime import one_thread
from realfake.statistics.metrics import log_odds_from_logits

# Logits (n, classes) and out-of-distribution p-values (n,), or `None` without the statistics.
Output = tuple[np.ndarray, np.ndarray | None]
# Takes float32 pixels (n, 3, height, width).
Engine = Callable[[np.ndarray], Output]

ENGINES = ("torch-fp32", "torch-bf16", "openvino-fp32", "openvino-bf16")
_FP32 = ("torch-fp32", "openvino-fp32")
EXACT = 1e-5
TOLERANCE = 0.01
# Safety factor for deviations, which are measured on a small sample.
SAFETY = 3.0
_TRIAL_BATCH = 8

logger = logging.getLogger(__name__)


class TorchEngine:
    """Eager PyTorch, with batch normalisation folded into the convolutions.

    It is thread-safe.

    Args:
        detector: The detector.
        precision: `"fp32"` or `"bf16"`. The last linear layer stays in fp32, because the resolution
            of a bfloat16 logit of 5 is 0.03.
        pixels: Some inputs, `(n, 3, height, width)`, to check the folding.
    """

    def __init__(self, detector: Detector, precision: str, pixels: np.ndarray):
        self._ood = detector.ood
        self._device = detector.model.device
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        with torch.inference_mode():
            model = fold_batch_norms(detector.model, torch.from_numpy(pixels[:2]).to(self._device))
            if precision == "bf16":
                model = copy.deepcopy(model).to(torch.bfloat16)
                for linear in final_linears(model).values():
                    linear.float().register_forward_pre_hook(_in_fp32)
        self._model = model
        self._local = threading.local()

    def __call__(self, pixels: np.ndarray) -> Output:
        if not hasattr(self._local, "model"):
            # Hooks collect the features, so each thread needs its own modules.
            self._local.model = _with_shared_weights(self._model)
        batch = torch.from_numpy(pixels).to(self._device, self._dtype)
        with torch.inference_mode():
            if self._ood is None:
                logits = self._local.model(pixel_values=batch).logits
                return logits.float().cpu().numpy(), None
            logits, features = forward_with_features(self._local.model, batch)
        blocks = {name: block.cpu().numpy() for name, block in features.items()}
        return logits.cpu().numpy(), self._ood.p_value(blocks)


class OpenVinoEngine:
    """OpenVINO on the CPU, for networks with inputs of one size.

    It uses OpenVINO's PyTorch frontend directly, because `openvino.convert_model` reports usage
    statistics.

    Args:
        detector: The detector.
        precision: `"fp32"` or `"bf16"`.
        pixels: Some inputs, `(n, 3, height, width)`; later inputs have the same height and width.
        threads: Number of computing threads.
        callers: *optional*. Number of threads that call this engine; *defaults to* `threads`.

    Raises:
        RuntimeError: OpenVINO cannot convert the network.
    """

    def __init__(
        self,
        detector: Detector,
        precision: str,
        pixels: np.ndarray,
        threads: int = 1,
        callers: int | None = None,
    ):
        import openvino

        model = _Traced(detector.model, detector.ood is not None).eval()
        network = _converted(model, torch.from_numpy(pixels[:2]))
        self._blocks, self._ood = model.blocks, detector.ood
        self._compiled = openvino.Core().compile_model(
            network,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": callers or threads,
                # With pinning, all processes of a machine would use the same cores.
                "ENABLE_CPU_PINNING": False,
            },
        )
        self._local = threading.local()

    def __call__(self, pixels: np.ndarray) -> Output:
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        outputs = self._local.request.infer([np.ascontiguousarray(pixels, dtype=np.float32)])
        logits, *blocks = (
            np.array(outputs[index], dtype=np.float32) for index in range(1 + len(self._blocks))
        )
        if self._ood is None:
            return logits, None
        return logits, self._ood.p_value(dict(zip(self._blocks, blocks, strict=True)))


def open_engine(
    name: str, detector: Detector, pixels: np.ndarray, threads: int = 1, callers: int | None = None
) -> Engine:
    """Create an engine.

    Args:
        name: One of [`ENGINES`].
        detector: The detector.
        pixels: Some inputs, `(n, 3, height, width)`.
        threads, callers: As for [`OpenVinoEngine`].

    Raises:
        ValueError: There is no engine of that name.
        OSError: OpenVINO is not installed.
        RuntimeError: OpenVINO cannot convert the network.
    """
    if name not in ENGINES:
        raise ValueError(f"There is no engine {name!r}; use one of {', '.join(ENGINES)}.")
    kind, precision = name.split("-")
    if kind == "torch":
        return TorchEngine(detector, precision, pixels)
    if not has_openvino():
        raise OSError(
            f'The engine {name} needs OpenVINO: pip install "realfake[openvino]", or choose '
            "another engine."
        )
    return OpenVinoEngine(detector, precision, pixels, threads, callers)


def accelerate(detector: Detector, pixels: np.ndarray) -> bool:
    """Let a detector on a CPU compute with OpenVINO in fp32, which is faster than PyTorch.

    Args:
        detector: Its [`~realfake.examiner.Examiner.engine`] is set for inputs of this size.
        pixels: Some inputs, `(n, 3, height, width)`, to compare with PyTorch.

    Returns:
        Whether it was possible: OpenVINO is installed, can convert the network, and gives the same
        probabilities to 1e-5.
    """
    if detector.model.device.type != "cpu" or detector.model.dtype != torch.float32:
        return False
    if not has_openvino():
        return False
    threads = torch.get_num_threads()
    try:
        engine = open_engine("openvino-fp32", detector, pixels, threads, callers=1)
    except Exception as error:  # PyTorch can run everything
        logger.info("OpenVINO cannot run this network: %s", error)
        return False
    sample = torch.from_numpy(pixels[:_TRIAL_BATCH])
    expected, found = detector.examine(sample), engine(pixels[:_TRIAL_BATCH])
    values = [expit(_scores(detector, [each])[0]) for each in (expected, found)]
    if _largest(*values) > EXACT:
        return False
    detector.engine = engine, tuple(pixels.shape[1:]), detector.weights_version()
    return True


def has_openvino() -> bool:
    """Return whether OpenVINO is installed."""
    return importlib.util.find_spec("openvino") is not None


@dataclass(frozen=True)
class Choice:
    """The chosen engine, and the measurements behind the choice.

    Args:
        engine: The engine for all images.
        reference: The fp32 engine for doubtful images.
        band: Largest deviation of the log-odds from fp32; 0 if `engine` is an fp32 engine.
        ood_band: The same for the out-of-distribution p-value.
        trials: `{engine: {"ms", "log_odds", "ood", "probability", "doubtful"}}`: CPU milliseconds
            per image, largest deviations from the stock forward pass, share of doubtful images.
    """

    engine: str = "torch-fp32"
    reference: str = "torch-fp32"
    band: float = 0.0
    ood_band: float = 0.0
    trials: dict[str, dict[str, float]] = field(default_factory=dict)

    def doubtful(self, detector: Detector, scores: Scores) -> np.ndarray:
        """Return which images must be computed again in fp32.

        An image is doubtful if its label or verdict could change, or its probability by more than
        0.01.

        Args:
            detector: The detector, for its thresholds.
            scores: Of n images.

        Returns:
            (n,) bool.
        """
        log_odds = scores.log_odds
        if not self.band and not self.ood_band:
            return np.zeros(len(log_odds), dtype=bool)
        # No view deviates by more than the band, so their mean does not either.
        doubtful = ~np.isfinite(log_odds) | (np.abs(log_odds) <= self.band)
        n_views = np.ones(len(log_odds), dtype=int) if scores.n_views is None else scores.n_views
        if detector.thresholds is not None:
            for edge in detector.thresholds.edges(n_views):
                doubtful |= np.abs(log_odds - edge) <= self.band
        p_ai, low, high = (expit(log_odds + shift) for shift in (0.0, -self.band, self.band))
        doubtful |= np.maximum(high - p_ai, p_ai - low) > TOLERANCE
        if scores.ood is not None:
            doubtful |= np.abs(scores.ood - detector.ood.alpha) <= self.ood_band
        return doubtful

    def to_dict(self) -> dict:
        """Return plain values for `json`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Choice":
        """Read the result of [`to_dict`]."""
        return cls(**values)


def choose(
    detector: Detector,
    pixels: np.ndarray,
    *,
    exact: bool = False,
    names: Sequence[str] | None = None,
) -> Choice:
    """Measure engines on some images, and choose the one with the least CPU time.

    Args:
        detector: The detector, in fp32.
        pixels: Inputs of typical images, `(n, 3, height, width)`.
        exact: Whether to measure fp32 engines only.
        names: *optional*. The engines to measure; *defaults to* all [`available`] ones.

    Returns:
        The choice. An fp32 engine with a deviation above 1e-5 in a probability is never chosen.
    """
    names = [name for name in names or available(detector) if not exact or name in _FP32]
    trials = {}
    with one_thread():
        starts = range(0, len(pixels), _TRIAL_BATCH)
        batches = [pixels[start : start + _TRIAL_BATCH] for start in starts]
        outputs = [detector.examine(torch.from_numpy(batch)) for batch in batches]
        expected = _scores(detector, outputs)
        for name in names:
            try:
                engine = open_engine(name, detector, pixels)
                trials[name] = _try(detector, engine, batches, expected, name in _FP32)
            except RuntimeError as error:
                logger.info("The engine %s cannot run this network: %s", name, error)
    precise = [name for name in trials if name in _FP32 and trials[name]["probability"] <= EXACT]
    reference = min(precise, key=lambda name: trials[name]["ms"], default="torch-fp32")

    def cost(name: str) -> float:
        trial = trials[name]
        if not trial["doubtful"]:
            return trial["ms"]
        fp32_ms = trials[reference]["ms"] if precise else float("inf")
        return trial["ms"] + trial["doubtful"] * fp32_ms

    usable = [name for name in trials if name in precise or name not in _FP32]
    best = min(usable, key=cost, default=reference)
    if best in precise or best not in trials:
        return Choice(best, best, trials=trials)
    band, ood_band = (SAFETY * trials[best][key] for key in ("log_odds", "ood"))
    return Choice(best, reference, band, ood_band, trials)


def available(detector: Detector) -> list[str]:
    """Return the engines that can run here; bfloat16 only if the processor supports it."""
    on_cpu = detector.model.device.type == "cpu"
    bf16 = torch.cpu._is_avx512_bf16_supported() if on_cpu else torch.cuda.is_bf16_supported()
    kinds = ("torch", "openvino") if on_cpu and has_openvino() else ("torch",)
    precisions = ("fp32", "bf16") if bf16 else ("fp32",)
    return [f"{kind}-{precision}" for kind in kinds for precision in precisions]


def _scores(detector: Detector, outputs: Sequence[Output]) -> tuple[np.ndarray, np.ndarray | None]:
    """Return log-odds and out-of-distribution p-values of several batches."""
    log_odds = np.concatenate(
        [log_odds_from_logits(logits, detector.class_indices) for logits, _ in outputs]
    )
    return log_odds, None if detector.ood is None else np.concatenate([ood for _, ood in outputs])


def _try(
    detector: Detector,
    engine: Engine,
    batches: Sequence[np.ndarray],
    expected: tuple[np.ndarray, np.ndarray | None],
    is_fp32: bool,
) -> dict[str, float]:
    """Time an engine and compare it with the stock forward pass."""
    engine(batches[0])  # the first call allocates and tunes
    outputs, times = [], []
    for batch in batches:
        # CPU time, because other programs may use the cores too.
        start = time.process_time()
        outputs.append(engine(batch))
        times.append((time.process_time() - start) / len(batch))
    log_odds, ood = _scores(detector, outputs)
    deviation = _largest(log_odds, expected[0])
    ood_deviation = 0.0 if ood is None else _largest(ood, expected[1])
    doubtful = 0.0
    if not is_fp32:
        choice = Choice(band=SAFETY * deviation, ood_band=SAFETY * ood_deviation)
        doubtful = float(choice.doubtful(detector, Scores(log_odds, ood)).mean())
    return {
        "ms": 1e3 * min(times),
        "log_odds": deviation,
        "ood": ood_deviation,
        "probability": _largest(expit(log_odds), expit(expected[0])),
        "doubtful": doubtful,
    }


def _largest(values: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(values - expected).max(initial=0.0))


def _in_fp32(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(argument.float() for argument in arguments)


def _with_shared_weights(model: nn.Module) -> nn.Module:
    """Return a copy of a model's modules with the same tensors."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


class _Traced(nn.Module):
    """The forward pass with a tuple of tensors as its result, for tracing."""

    def __init__(self, model: nn.Module, features: bool):
        super().__init__()
        self.model = model
        self.features = features
        self.blocks: list[str] = []

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if not self.features:
            return (self.model(pixel_values=pixels).logits,)
        logits, features = forward_with_features(self.model, pixels)
        self.blocks = list(features)
        return (logits, *features.values())


def _converted(model: nn.Module, example: torch.Tensor) -> Any:
    """Trace a model for OpenVINO, with a batch of any size."""
    from openvino import PartialShape
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # the warning that heights and widths become constants
        decoder = TorchScriptPythonDecoder(
            model, example_input=(example.clone(),), trace_kwargs={"check_trace": False}
        )
        frontend = FrontEndManager().load_by_framework("pytorch")
        network = frontend.convert(frontend.load(decoder))
    network.reshape(PartialShape([-1, *example.shape[1:]]))
    return network
