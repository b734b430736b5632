"""The image classifiers that `realfake compare` compares by default.

Papers on generated images compare these seven most often. Each is a checkpoint of the Hub, or built
from random weights at full or tiny size.
"""

import json
from dataclasses import dataclass, field

SCALES = ("tiny", "full")


@dataclass(frozen=True)
class Architecture:
    """An image classifier.

    Args:
        hub_id: Checkpoint pretrained on ImageNet.
        model_type: Its name in transformers.
        full: Fields of its configuration that differ from the default.
        tiny: The same at about a sixteenth of the width, with fewer layers.
    """

    hub_id: str
    model_type: str
    full: dict = field(default_factory=dict)
    tiny: dict = field(default_factory=dict)


def _resnet(width: int, depths: list[int], layer_type: str) -> dict:
    return {
        "embedding_size": width if layer_type == "basic" else max(8, width // 4),
        "hidden_sizes": [width * 2**stage for stage in range(4)],
        "depths": depths,
        "layer_type": layer_type,
    }


def _vit(width: int, layers: int, heads: int) -> dict:
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
    }


def _convnext(width: int, depths: list[int]) -> dict:
    return {"hidden_sizes": [width * 2**stage for stage in range(4)], "depths": depths}


def _efficientnet(width: float, depth: float, dropout: float) -> dict:
    return {
        "width_coefficient": width,
        "depth_coefficient": depth,
        # Channels of the top convolution: 1280 at width 1.
        "hidden_dim": max(8, round(1280 * width / 8) * 8),
        "dropout_rate": dropout,
        # The defaults suit TensorFlow's weights. From scratch, an initializer_range of 0.02 makes
        # signals vanish in the normalisations' epsilon.
        "initializer_range": 0.1,
        "batch_norm_momentum": 0.1,
    }


ARCHITECTURES = {
    "resnet-18": Architecture(
        "microsoft/resnet-18",
        "resnet",
        _resnet(64, [2, 2, 2, 2], "basic"),
        _resnet(16, [1, 1, 1, 1], "basic"),
    ),
    "resnet-50": Architecture(
        "microsoft/resnet-50",
        "resnet",
        _resnet(256, [3, 4, 6, 3], "bottleneck"),
        _resnet(32, [2, 2, 3, 2], "bottleneck"),
    ),
    "vit-b/16": Architecture(
        "google/vit-base-patch16-224", "vit", _vit(768, 12, 12), _vit(64, 4, 2)
    ),
    "convnextv2-tiny": Architecture(
        "facebook/convnextv2-tiny-1k-224",
        "convnextv2",
        _convnext(96, [3, 3, 9, 3]),
        _convnext(16, [1, 1, 2, 1]),
    ),
    "convnextv2-base": Architecture(
        "facebook/convnextv2-base-1k-224",
        "convnextv2",
        _convnext(128, [3, 3, 27, 3]),
        _convnext(24, [1, 1, 4, 1]),
    ),
    "efficientnet-b0": Architecture(
        "google/efficientnet-b0",
        "efficientnet",
        _efficientnet(1.0, 1.0, 0.2),
        _efficientnet(0.25, 0.5, 0.1),
    ),
    "efficientnet-b6": Architecture(
        "google/efficientnet-b6",
        "efficientnet",
        _efficientnet(1.8, 2.6, 0.5),
        _efficientnet(0.4, 0.8, 0.2),
    ),
}


def model_options(
    name: str, *, from_scratch: bool, scale: str, image_size: int | None
) -> list[str]:
    """Return the training options that select a model.

    Args:
        name: A name of [`ARCHITECTURES`], or a Hub id or folder.
        from_scratch: Whether to use random weights instead of the Hub's.
        scale: `"full"` or `"tiny"`; only from scratch.
        image_size: Side of the input in pixels; below 128 the first layer's patches are smaller.

    Raises:
        ValueError: A model that is not in [`ARCHITECTURES`] cannot be built from scratch.
    """
    known = ARCHITECTURES.get(name)
    if not from_scratch:
        return ["--model_name_or_path", known.hub_id if known else name]
    if known is None:
        raise ValueError(
            f"--from_scratch knows {', '.join(ARCHITECTURES)}, not {name!r}; describe other models "
            "in a JSON file."
        )
    overrides = dict(getattr(known, scale))
    if image_size is not None and image_size < 128:
        patches = {"vit": max(2, image_size // 8), "convnextv2": 2 if image_size < 64 else 4}
        if known.model_type in patches:
            overrides["patch_size"] = patches[known.model_type]
    return ["--model_type", known.model_type, "--config_overrides", json.dumps(overrides)]
