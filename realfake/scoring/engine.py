"""Ways to run a classifier's forward pass faster, and the choice between them by measurement.

`scorer.py` asks [`choose`] once per run, with some of the images that are to be scored. Each engine takes float32 pixels and
gives float32 logits; those that compute in bfloat16 stray from the stock pipeline, and by how much is measured too: images
whose verdict or probability could change by that are computed again in fp32 ([`Choice.doubtful`]).

Measured on two cores of a processor with AMX, as CPU time an image: MobileNetV2 at 288 pixels takes 97 ms as the pipeline
runs it, 12 ms with OpenVINO in fp32, with probabilities that agree to 1e-6; ViT-B/16 takes 240 ms, 60 ms in bfloat16, 55 ms
with OpenVINO in bfloat16. ONNX Runtime was no faster than OpenVINO (14 ms and no bfloat16), and `torch.compile` needed a
compiler and a minute to reach 32 and 49 ms, so neither is a dependency. OpenVINO is used where it is installed.
"""

import copy
import importlib.util
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from scipy.special import expit
from torch import nn

from realfake.detector import Detector
from realfake.models.folding import final_linears, fold_batch_norms
from realfake.models.ood import forward_with_features
from realfake.runtime import one_thread
from realfake.statistics.log_odds import log_odds_from_logits

# Logits of shape (n, labels) and the novelty (n,), `None` where the checkpoint has no statistics: as `Detector.examine`.
Output = tuple[np.ndarray, np.ndarray | None]
Engine = Callable[[np.ndarray], Output]

ENGINES = ("torch-fp32", "torch-bf16", "openvino-fp32", "openvino-bf16")
EXACT = 1e-5
TOLERANCE = 0.01
# The sample is small, so that what it shows of the deviations is taken this many times.
SAFETY = 3.0
_TRIAL_BATCH = 8


class TorchEngine:
    """Eager PyTorch with what costs nothing: batch normalisation folded into the convolutions, channels last.

    Safe to be called from several threads at once.

    Args:
        detector: The detector.
        precision: `"fp32"` or `"bf16"`. The last linear layer stays in fp32 either way: in bfloat16 a logit of 5 is
            known to 0.03 only.
        pixels: A few inputs, `(n, 3, height, width)`, by which the folding is checked.
    """

    def __init__(self, detector: Detector, precision: str, pixels: np.ndarray):
        self._ood = detector.ood
        with torch.inference_mode():
            model = fold_batch_norms(
                detector.model, torch.from_numpy(pixels[:2]).to(detector.model.device)
            )
            self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
            if precision == "bf16":
                model = copy.deepcopy(model).to(torch.bfloat16)
                for linear in final_linears(model).values():
                    linear.float().register_forward_pre_hook(_in_fp32)
        self._model = model
        self._device = detector.model.device
        self._own = threading.local()

    def __call__(self, pixels: np.ndarray) -> Output:
        if not hasattr(self._own, "model"):
            # Features are taken by hooks, which must not see the inputs of another thread.
            self._own.model = _with_shared_weights(self._model)
        batch = torch.from_numpy(pixels).to(self._device, self._dtype)
        with torch.inference_mode():
            if self._ood is None:
                return self._own.model(pixel_values=batch).logits.float().cpu().numpy(), None
            logits, features = forward_with_features(self._own.model, batch)
        return logits.cpu().numpy(), self._ood.p_value(
            {name: block.cpu().numpy() for name, block in features.items()}
        )


class OpenVinoEngine:
    """OpenVINO on the CPU, for networks whose input has one size.

    The network goes to OpenVINO's PyTorch frontend directly: `openvino.convert_model` would report usage statistics.

    Args:
        detector: The detector.
        precision: `"fp32"` or `"bf16"`.
        pixels: A few inputs, `(n, 3, height, width)`; later ones must have the same height and width.
        threads: How many threads compute.
        callers: How many threads will call this engine at once, sharing those that compute; by default each has one.

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
        example = torch.from_numpy(pixels[:2])
        network = _converted(model, example)
        self._blocks, self._ood = model.blocks, detector.ood
        self._compiled = openvino.Core().compile_model(
            network,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": callers or threads,
                # Several processes on one machine would pin themselves to the same cores.
                "ENABLE_CPU_PINNING": False,
            },
        )
        self._own = threading.local()

    def __call__(self, pixels: np.ndarray) -> Output:
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        outputs = self._own.request.infer([np.ascontiguousarray(pixels, dtype=np.float32)])
        logits, *blocks = (
            np.array(outputs[index], dtype=np.float32) for index in range(1 + len(self._blocks))
        )
        if self._ood is None:
            return logits, None
        return logits, self._ood.p_value(dict(zip(self._blocks, blocks, strict=True)))


def open_engine(
    name: str, detector: Detector, pixels: np.ndarray, threads: int = 1, callers: int | None = None
) -> Engine:
    """Make one of [`ENGINES`].

    Args:
        name: Its name.
        detector, pixels, threads, callers: As in [`OpenVinoEngine`].

    Raises:
        ValueError: There is no engine of that name.
        OSError: It needs OpenVINO, which is not installed.
        RuntimeError: OpenVINO cannot convert the network.
    """
    if name not in ENGINES:
        raise ValueError(f"There is no engine {name!r}; use one of {', '.join(ENGINES)}.")
    kind, precision = name.split("-")
    if kind == "torch":
        return TorchEngine(detector, precision, pixels)
    if not has_openvino():
        raise OSError(
            f"The engine {name} needs OpenVINO: pip install openvino, or choose another with --engine."
        )
    return OpenVinoEngine(detector, precision, pixels, threads, callers)


def has_openvino() -> bool:
    """Whether OpenVINO is installed."""
    return importlib.util.find_spec("openvino") is not None


@dataclass(frozen=True)
class Choice:
    """Which engine a run uses, and what was measured for it.

    Args:
        engine: The engine of every image.
        reference: The engine in fp32 of the images that are computed again.
        band: By how much a margin may stray from fp32; 0 where `engine` computes in fp32.
        ood_band: The same for the p-value of [`~realfake.models.ood.Novelty`].
        trials: What each engine did on the sample: `{name: {"ms", "margin", "novelty", "probability", "doubtful"}}`, CPU
            milliseconds an image, largest deviations from the stock forward pass, share of images to compute again.
    """

    engine: str = "torch-fp32"
    reference: str = "torch-fp32"
    band: float = 0.0
    ood_band: float = 0.0
    trials: dict[str, dict] = field(default_factory=dict)

    def doubtful(
        self, detector: Detector, log_odds: np.ndarray, ood: np.ndarray | None
    ) -> np.ndarray:
        """Which images must be computed again in fp32, (n,) bool: a label, a verdict or 0.01 of a probability is at stake."""
        return _doubtful(detector, log_odds, ood, self.band, self.ood_band)

    def to_dict(self) -> dict:
        """Plain values for `json`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping) -> "Choice":
        """Read what [`to_dict`] wrote."""
        return cls(**values)


def choose(
    detector: Detector,
    pixels: np.ndarray,
    *,
    exact: bool = False,
    names: Sequence[str] | None = None,
) -> Choice:
    """Try the engines on some images and take the one that will need the least CPU time.

    Args:
        detector: The detector, in fp32.
        pixels: Inputs of images like those that will be scored, `(n, 3, height, width)`.
        exact: Whether to take engines in fp32 alone.
        names: *optional*. The engines to try; *defaults to* all that can run here.

    Returns:
        [`Choice`]. An engine in fp32 that strays by more than 1e-5 in a probability is never taken.
    """
    tried = [name for name in names or available(detector) if not exact or name.endswith("-fp32")]
    with one_thread():
        batches = [
            pixels[start : start + _TRIAL_BATCH] for start in range(0, len(pixels), _TRIAL_BATCH)
        ]
        expected = _scores(
            detector, [detector.examine(torch.from_numpy(batch)) for batch in batches]
        )
        trials = {}
        for name in tried:
            try:
                engine = open_engine(name, detector, pixels)
                trials[name] = _try(
                    detector, engine, batches, expected, precise=name.endswith("-fp32")
                )
            except RuntimeError as error:
                logging.getLogger(__name__).info(
                    "The engine %s cannot run this network: %s", name, _first_line(error)
                )
    precise = {
        name: trial
        for name, trial in trials.items()
        if name.endswith("-fp32") and trial["probability"] <= EXACT
    }
    reference = min(precise, key=lambda name: precise[name]["ms"], default="torch-fp32")
    again = precise[reference]["ms"] if reference in precise else float("inf")

    def cost(name: str) -> float:
        return trials[name]["ms"] + (
            trials[name]["doubtful"] * again if trials[name]["doubtful"] else 0.0
        )

    usable = [name for name in trials if name in precise or not name.endswith("-fp32")]
    best = min(usable, key=cost, default=reference)
    if best in precise or best not in trials:
        return Choice(best, best, trials=trials)
    band, ood_band = (SAFETY * trials[best][key] for key in ("log_odds", "ood"))
    return Choice(best, reference, band, ood_band, trials)


def available(detector: Detector) -> list[str]:
    """The engines that can run here; bfloat16 only where the processor computes in it."""
    on_cpu = detector.model.device.type == "cpu"
    bf16 = torch.cpu._is_avx512_bf16_supported() if on_cpu else torch.cuda.is_bf16_supported()
    kinds = ["torch", "openvino"] if on_cpu and has_openvino() else ["torch"]
    return [
        f"{kind}-{precision}"
        for kind in kinds
        for precision in (["fp32", "bf16"] if bf16 else ["fp32"])
    ]


def _scores(detector: Detector, outputs: Sequence[Output]) -> tuple[np.ndarray, np.ndarray | None]:
    """Margins and novelty of several batches."""
    log_odds = np.concatenate(
        [log_odds_from_logits(logits, detector.class_indices) for logits, _ in outputs]
    )
    return log_odds, None if detector.ood is None else np.concatenate([ood for _, ood in outputs])


def _try(detector: Detector, engine: Engine, batches, expected, precise: bool) -> dict:
    """Time an engine and compare it with the stock forward pass."""
    engine(batches[0])  # the first call allocates and tunes
    outputs, times = [], []
    for batch in batches:
        # CPU time: OpenVINO computes on threads of its own, and other programs may have the cores meanwhile.
        start = time.process_time()
        outputs.append(engine(batch))
        times.append((time.process_time() - start) / len(batch))
    log_odds, ood = _scores(detector, outputs)
    moved = _largest(log_odds, expected[0])
    strayed = 0.0 if ood is None else _largest(ood, expected[1])
    doubtful = 0.0
    if not precise:
        doubtful = float(
            _doubtful(detector, log_odds, ood, SAFETY * moved, SAFETY * strayed).mean()
        )
    return {
        "ms": 1e3 * min(times),
        "log_odds": moved,
        "ood": strayed,
        "probability": _largest(expit(log_odds), expit(expected[0])),
        "doubtful": doubtful,
    }


def _largest(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max(initial=0.0))


def _doubtful(detector, log_odds, ood, band: float, ood_band: float) -> np.ndarray:
    if not band and not ood_band:
        return np.zeros(len(log_odds), dtype=bool)
    limits = detector.thresholds
    edges = (
        [0.0]
        if limits is None
        else [0.0, *(edge for edge in (limits.real, limits.ai) if edge is not None)]
    )
    doubtful = ~np.isfinite(log_odds)
    for edge in edges:
        doubtful |= np.abs(log_odds - edge) <= band
    moved = np.maximum(
        expit(log_odds + band) - expit(log_odds), expit(log_odds) - expit(log_odds - band)
    )
    doubtful |= moved > TOLERANCE
    if ood is not None:
        doubtful |= np.abs(ood - detector.ood.alpha) <= ood_band
    return doubtful


def _in_fp32(module: nn.Module, arguments: tuple) -> tuple:
    return tuple(argument.float() for argument in arguments)


def _with_shared_weights(model: nn.Module) -> nn.Module:
    """A copy of a model's modules, with the same tensors in them."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


class _Traced(nn.Module):
    """The forward pass with a tuple of tensors as its result, as tracing wants it."""

    def __init__(self, model: nn.Module, features: bool):
        super().__init__()
        self.model = model
        self.features = features
        self.blocks: list[str] = []

    def forward(self, pixels: torch.Tensor):
        if not self.features:
            return (self.model(pixel_values=pixels).logits,)
        logits, features = forward_with_features(self.model, pixels)
        self.blocks = list(features)
        return (logits, *features.values())


def _converted(model: nn.Module, example: torch.Tensor):
    """Trace a model for OpenVINO, with a batch of any size."""
    import warnings

    from openvino import PartialShape
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter(
            "ignore"
        )  # that heights and widths become constants is what is wanted
        decoder = TorchScriptPythonDecoder(
            model, example_input=(example.clone(),), trace_kwargs={"check_trace": False}
        )
        frontend = FrontEndManager().load_by_framework("pytorch")
        network = frontend.convert(frontend.load(decoder))
    network.reshape(PartialShape([-1, *example.shape[1:]]))
    return network


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
