"""Is an image unlike those that a checkpoint was calibrated on? Then the detector says nothing,
whatever the margin.

A two-class network answers on a page of text, a chart or a flat colour as readily as on a
photograph. Its own features tell them apart: [`fit`] describes those of the calibration images,
`ood.safetensors` keeps the description beside the weights, and [`Detector.predict`] withholds the
verdict where the [`OodReference.p_value`] of an image is at most the stated rate.

The features of an image are three pooled blocks, from the forward pass that gives the logits: the
input of the last linear layer (L2-normalised), and mean and standard deviation over all positions
of the hidden states at a quarter and at half of the network's depth. The last layer alone does not
do: what it keeps is what tells real from ai, and flat areas and straight edges are gone by then. On
drawn text, charts, screens, flat colours, gradients and noise it found 66 % at 5 % false alarms
(the bundled photos detector, scenes), the three blocks together 98 % or more.

Each block is scored by its Mahalanobis distance to the calibration images, with a covariance of low
rank plus noise (probabilistic principal components: Tipping and Bishop 1999; Lee et al. 2018 for
the use of such distances on features).
"""

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import get_ident

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import nn

from realfake.io import write_atomically
from realfake.labels import AI, NAMES, REAL
from realfake.models.folding import final_linears
from realfake.statistics.bootstrap import group_index
from realfake.statistics.log_odds import check_labels
from realfake.statistics.verdicts import rank_allowed

FILE_NAME = "novelty.safetensors"
ALPHA = 0.05
RANK = 32
# More images than these change neither the description nor the threshold by much.
MAX_IMAGES = 1000
_FORMAT = "realfake-novelty-1"
_N_FOLDS = 10
# Fewer images than these describe nothing.
_FEWEST = 20


# Features


def forward_with_features(
    model: nn.Module, pixel_values: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Run an image classifier once, for its logits and for the features that novelty is judged by.

    Args:
        model: An image classifier of transformers.
        pixel_values: `(batch, 3, height, width)`.

    Returns:
        The logits, `(batch, labels)`, and `{block: (batch, size)}`, both float32. A model that
        gives no hidden states has the block `"penultimate"` alone.
    """
    with _inputs_of(final_linears(model).values()) as inputs:
        output = model(pixel_values=pixel_values, output_hidden_states=True)
    heads = [tensor.float() for tensor in inputs]
    # A head that classifies every position is averaged over them afterwards.
    heads = [tensor.flatten(1, -2).mean(1) if tensor.ndim > 2 else tensor for tensor in heads]
    blocks = {"penultimate": nn.functional.normalize(torch.cat(heads, dim=1), dim=1)}
    hidden = getattr(output, "hidden_states", None) or ()
    for name, index in (("quarter", len(hidden) // 4), ("half", len(hidden) // 2)):
        if hidden:
            state = hidden[index].float()
            # Maps are (batch, channels, height, width), tokens (batch, tokens, channels).
            state = state.flatten(2) if state.ndim == 4 else state.transpose(1, 2)
            blocks[name] = torch.cat([state.mean(2), state.std(2, correction=0)], dim=1)
    return output.logits.float(), blocks


@contextmanager
def _inputs_of(modules):
    inputs: list[torch.Tensor] = []
    owner = get_ident()

    def keep(_module, arguments):
        # Another thread may run the same model meanwhile; its pass is none of ours.
        if get_ident() == owner:
            inputs.append(arguments[0])

    handles = [module.register_forward_pre_hook(keep) for module in modules]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


# Statistics


@dataclass(frozen=True)
class _Block:
    """Where the calibration images lie in one block of features, with a covariance of low rank plus
    noise.

    Args:
        mean, scale: (d,) by which features are standardised.
        components: (r, d) orthonormal rows, the directions of the largest variance after that.
        variances: (r,) along them.
        rest: The variance along every other direction.
    """

    mean: np.ndarray
    scale: np.ndarray
    components: np.ndarray
    variances: np.ndarray
    rest: float

    @classmethod
    def fit(cls, features: np.ndarray) -> "_Block":
        n, d = features.shape
        mean, scale = features.mean(0), features.std(0)
        # A feature that hardly moves on the calibration images must not outweigh all others when it
        # does.
        scale = np.maximum(scale, 0.1 * scale.mean() + 1e-12)
        standard = (features - mean) / scale
        rank = min(RANK, d - 1, n - 2)
        _, singular, rows = np.linalg.svd(standard, full_matrices=False)
        variances = singular**2 / (n - 1)
        rest = max((variances.sum() - variances[:rank].sum()) / (d - rank), 1e-2)
        return cls(mean, scale, rows[:rank], np.maximum(variances[:rank], rest), float(rest))

    def distance(self, features: np.ndarray) -> np.ndarray:
        """Squared Mahalanobis distance per feature, (n,): about 1 for images like the calibration
        images.
        """
        standard = (features - self.mean) / self.scale
        along = standard @ self.components.T
        across = (standard**2).sum(1) - (along**2).sum(1)
        return ((along**2 / self.variances).sum(1) + across / self.rest) / len(self.mean)


@dataclass(frozen=True)
class OodReference:
    """How unusual an image is among the calibration images of a checkpoint.

    Args:
        alpha: Share of the images of each class that may be taken for novel.
        blocks: `{name: description}` of the features' blocks.
        scores: `{label: sorted scores}` of the calibration images, one a group, each scored by a
            description that was fitted without it. Labels with too few images for `alpha` are left
            out.
    """

    alpha: float
    blocks: dict[str, _Block]
    scores: dict[str, np.ndarray]

    def score(self, features: dict[str, np.ndarray]) -> np.ndarray:
        """How unusual images are, (n,): the sum of the blocks' distances.

        Raises:
            ValueError: The features are not those of the network that the statistics were fitted
                on.
        """
        for name, block in self.blocks.items():
            if name not in features or features[name].shape[1:] != block.mean.shape:
                raise ValueError(
                    f"{FILE_NAME} was fitted on another network; fit it again with "
                    "`realfake calibrate MODEL --dataset CORPUS --only_ood`."
                )
        return sum(
            block.distance(features[name].astype(np.float64)) for name, block in self.blocks.items()
        )

    def p_value(self, features: dict[str, np.ndarray]) -> np.ndarray:
        """Share of calibration images that are at least as unusual, (n,), counting the image
        itself.

        It is the conformal p-value `(1 + #{calibration score >= score}) / (n + 1)` of each class,
        and the larger of the two: an image that is usual for a photograph or usual for a generated
        one is nothing new. So at most `alpha` of the images of either class fall to `alpha` or
        below, if they are like the calibration images; but for the description, which is not quite
        the one that the calibration scores were made with, that is exact.
        """
        scores = self.score(features)
        shares = [
            (1 + len(known) - np.searchsorted(known, scores, side="left")) / (len(known) + 1)
            for known in self.scores.values()
        ]
        # Features that are not finite are like nothing: searchsorted puts them behind all scores.
        return np.max(shares, axis=0)

    def is_out_of_distribution(self, p_value: np.ndarray) -> np.ndarray:
        """Which images are unlike the calibration images, (n,) bool."""
        return np.asarray(p_value) <= self.alpha + 1e-12

    def to_dict(self) -> dict:
        """What `config.json` says of it: `{"alpha", "n": {label: images}, "blocks": names}`."""
        n = {label: len(self.scores.get(label, ())) for label in NAMES}
        return {"alpha": self.alpha, "n": n, "blocks": list(self.blocks)}

    def save(self, folder: str | Path) -> Path:
        """Write `ood.safetensors` into a checkpoint's folder: under 0.5 MB for features of up to
        4,000 dimensions.

        Raises:
            OSError: The folder cannot be written.
        """
        tensors = {
            f"scores.{label}": scores.astype(np.float32) for label, scores in self.scores.items()
        }
        for name, block in self.blocks.items():
            for key in ("mean", "scale", "variances"):
                tensors[f"{name}.{key}"] = getattr(block, key).astype(np.float32)
            tensors[f"{name}.components"] = np.ascontiguousarray(
                block.components.astype(np.float16)
            )
            tensors[f"{name}.rest"] = np.array([block.rest], dtype=np.float32)
        metadata = {"format": _FORMAT, "alpha": repr(self.alpha), "blocks": ",".join(self.blocks)}
        path = Path(folder) / FILE_NAME
        # Written through Python, so that others may read it as they may the weights.
        write_atomically(path, save(tensors, metadata))
        return path

    @classmethod
    def load(cls, path: str | Path) -> "OodReference":
        """Read what [`save`] wrote.

        Raises:
            OSError: The file is broken, or of another kind.
        """
        try:
            with safe_open(path, "numpy") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise OSError(
                        f"{path} is no file of novelty statistics that this version reads; fit it again."
                    )
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            blocks = {
                name: _Block(
                    *(
                        tensors[f"{name}.{key}"].astype(np.float64)
                        for key in ("mean", "scale", "components", "variances")
                    ),
                    float(tensors[f"{name}.rest"][0]),
                )
                for name in metadata["blocks"].split(",")
            }
            scores = {
                label: tensors[f"scores.{label}"].astype(np.float64)
                for label in NAMES
                if f"scores.{label}" in tensors
            }
            return cls(float(metadata["alpha"]), blocks, scores)
        except (SafetensorError, KeyError, ValueError) as error:
            raise OSError(f"{path} is broken, download or save it again: {error}") from error


def choose(n: int, groups: Sequence | None = None, seed: int = 0) -> np.ndarray:
    """Indices of the images to fit on, in order: all, or some of [`MAX_IMAGES`] groups drawn at
    random.
    """
    index, n_groups = group_index(groups, n)
    if n <= MAX_IMAGES:
        return np.arange(n)
    rng = np.random.default_rng(seed)
    kept = np.flatnonzero(np.isin(index, rng.permutation(n_groups)[:MAX_IMAGES]))
    return np.sort(rng.permutation(kept)[:MAX_IMAGES])


def fit(
    features: dict[str, np.ndarray], is_ai, alpha: float = ALPHA, groups=None, seed: int = 0
) -> OodReference | None:
    """Describe calibration images of both classes, and score each by a description fitted without
    its fold.

    Both classes are described together, so that nothing is novel for being generated.

    Args:
        features: `{block: (n, size)}` of the calibration images.
        is_ai: (n,) bool.
        alpha: Share of the images of each class that may be taken for novel.
        groups: (n,), *optional*. Images of a group stay in one fold, and one of each group and
            class is scored.

    Returns:
        [`OodReference`], or `None` where there are too few images of either class to promise
        `alpha`.

    Raises:
        ValueError: `alpha` is not inside (0, 1), lengths differ, or a feature is not finite.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; the rate of false alarms must lie between 0 and 1.")
    is_ai = check_labels(is_ai)
    features = {name: np.asarray(block, dtype=np.float64) for name, block in features.items()}
    for name, block in features.items():
        if len(block) != len(is_ai):
            raise ValueError(f"The block {name} has {len(block)} rows for {len(is_ai)} images.")
        if not np.isfinite(block).all():
            raise ValueError(
                f"The features of the block {name} are not finite; the model diverged."
            )
    index, n_groups = group_index(groups, len(is_ai))
    if len(is_ai) < _FEWEST or n_groups < 2 * _N_FOLDS:
        return None
    rng = np.random.default_rng(seed)
    order = rng.permutation(n_groups)
    fold = order[index] % _N_FOLDS
    held_out = np.empty(len(is_ai))
    for k in range(_N_FOLDS):
        test = fold == k
        held_out[test] = sum(
            _Block.fit(block[~test]).distance(block[test]) for block in features.values()
        )
    scores = {}
    for label, of_class in ((REAL, ~is_ai), (AI, is_ai)):
        shuffled = rng.permutation(np.flatnonzero(of_class))
        _, first = np.unique(index[shuffled], return_index=True)
        if rank_allowed(len(first), alpha):
            scores[label] = np.sort(held_out[shuffled[first]])
    if not scores:
        return None
    return OodReference(
        float(alpha), {name: _Block.fit(block) for name, block in features.items()}, scores
    )
