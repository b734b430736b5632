"""Tiny models and a tiny corpus, so that the tests need no download.

`save_tiny` writes an untrained classifier of a supported architecture with its image processor.
`draw_corpus` writes class folders that differ by a residue, which a small model learns in seconds.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

ARCHITECTURES = (
    "vit",
    "deit",
    "dinov2",
    "siglip",
    "swin",
    "swinv2",
    "convnext",
    "convnextv2",
    "resnet",
    "efficientnet",
    "mobilenet_v2",
)


def save_tiny(
    architecture: str,
    folder: str | Path,
    image_size: int = 32,
    labels: Sequence[str] = ("real", "ai"),
    seed: int = 0,
) -> Path:
    """Write a random model of `architecture` with its image processor into `folder`.

    Every model is under 1 MB in float32. At 32 px its last grid has 4×4 cells or more, so that maps
    show something. The weights are larger than transformers initialises them, so that scores depend
    visibly on the image.

    Args:
        architecture (`str`): one of `ARCHITECTURES`.
        folder (`str` or `Path`): created if it does not exist.
        image_size (`int`, *optional*, defaults to 32): side of the input, a multiple of 8.
        labels (`Sequence[str]`, *optional*): class names in the order of the logits.
        seed (`int`, *optional*, defaults to 0): of the weights; the caller's random state stays.

    Returns:
        `Path`: the folder.
    """
    import torch

    build = _BUILDERS[architecture]
    id2label = dict(enumerate(labels))
    names = {"id2label": id2label, "label2id": {label: index for index, label in id2label.items()}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, processor = build(image_size, names)
        _settle_batch_norms(model, processor)
    folder = Path(folder)
    # As in checkpoints from the Hub.
    model.config.dtype = torch.float32
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _settle_batch_norms(model, processor) -> None:
    """Give every batch normalisation the statistics of a few drawn pictures.

    With the initial mean 0 and variance 1, the signal of an untrained network vanishes and all
    images have the same score.
    """
    import torch

    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    pictures = [draw_picture(64, seed=seed, residue=bool(seed % 2)) for seed in range(16)]
    with torch.no_grad():
        model.train()(**processor(pictures, return_tensors="pt"))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _square(image_size: int) -> dict[str, int]:
    return {"height": image_size, "width": image_size}


def _transformer(**more) -> dict:
    return {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "patch_size": 8,
        "initializer_range": 0.1,
        **more,
    }


def _vit(image_size, names):
    from transformers import ViTConfig, ViTForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    config = ViTConfig(image_size=image_size, **_transformer(), **names)
    return ViTForImageClassification(config), ViTImageProcessorPil(size=_square(image_size))


def _deit(image_size, names):
    from transformers import DeiTConfig, DeiTForImageClassification
    from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil

    config = DeiTConfig(image_size=image_size, **_transformer(), **names)
    # The auto class cannot choose between the heads with and without a teacher unless it is told.
    config.architectures = ["DeiTForImageClassification"]
    processor = DeiTImageProcessorPil(
        size=_square(image_size * 8 // 7), crop_size=_square(image_size)
    )
    return DeiTForImageClassification(config), processor


def _dinov2(image_size, names):
    from transformers import Dinov2Config, Dinov2ForImageClassification
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

    settings = _transformer(mlp_ratio=2)
    settings.pop("intermediate_size")
    config = Dinov2Config(image_size=image_size, **settings, **names)
    processor = BitImageProcessorPil(
        size={"shortest_edge": image_size * 8 // 7}, crop_size=_square(image_size)
    )
    return Dinov2ForImageClassification(config), processor


def _siglip(image_size, names):
    from transformers import SiglipConfig, SiglipForImageClassification
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    vision = _transformer(image_size=image_size)
    vision.pop("initializer_range")
    # The classifier holds no text tower; its configuration is there all the same.
    text = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    text |= {"vocab_size": 32, "projection_size": 32, "bos_token_id": 0, "eos_token_id": 1}
    config = SiglipConfig(vision_config=vision, text_config=text, **names)
    return SiglipForImageClassification(config), SiglipImageProcessorPil(size=_square(image_size))


def _hierarchical(**more) -> dict:
    return {
        "patch_size": 4,
        "embed_dim": 16,
        "depths": [1, 1],
        "num_heads": [2, 4],
        "window_size": 4,
        "mlp_ratio": 2.0,
        "initializer_range": 0.1,
        **more,
    }


def _swin(image_size, names):
    from transformers import SwinConfig, SwinForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    config = SwinConfig(image_size=image_size, **_hierarchical(), **names)
    return SwinForImageClassification(config), ViTImageProcessorPil(size=_square(image_size))


def _swinv2(image_size, names):
    from transformers import Swinv2Config, Swinv2ForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    config = Swinv2Config(image_size=image_size, **_hierarchical(), **names)
    return Swinv2ForImageClassification(config), ViTImageProcessorPil(size=_square(image_size))


def _stages() -> dict:
    return {"num_stages": 2, "depths": [1, 1], "hidden_sizes": [16, 32], "initializer_range": 0.2}


def _convnext_processor(image_size):
    from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil

    # Below 384 px it resizes to shortest_edge / crop_pct and cuts the middle out.
    return ConvNextImageProcessorPil(size={"shortest_edge": image_size}, crop_pct=0.875)


def _convnext(image_size, names):
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(image_size=image_size, layer_scale_init_value=0.1, **_stages(), **names)
    return ConvNextForImageClassification(config), _convnext_processor(image_size)


def _convnextv2(image_size, names):
    from transformers import ConvNextV2Config, ConvNextV2ForImageClassification

    config = ConvNextV2Config(image_size=image_size, **_stages(), **names)
    return ConvNextV2ForImageClassification(config), _convnext_processor(image_size)


def _resnet(image_size, names):
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", **names
    )
    return ResNetForImageClassification(config), _convnext_processor(image_size)


def _efficientnet(image_size, names):
    from transformers import EfficientNetConfig, EfficientNetForImageClassification
    from transformers.models.efficientnet.image_processing_pil_efficientnet import (
        EfficientNetImageProcessorPil,
    )

    config = EfficientNetConfig(
        image_size=image_size,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        kernel_sizes=[3, 3],
        in_channels=[32, 16],  # 32 is the width of the stem
        out_channels=[16, 24],
        strides=[1, 2],
        num_block_repeats=[1, 1],
        expand_ratios=[1, 4],
        hidden_dim=1280,  # the width of the top convolution at width_coefficient 1
        initializer_range=0.1,
        **names,
    )
    processor = EfficientNetImageProcessorPil(
        size=_square(image_size), crop_size=_square(image_size)
    )
    model = EfficientNetForImageClassification(config)
    model.classifier.weight.data *= 30  # its pooled features are small
    return model, processor


def _mobilenet_v2(image_size, names):
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification
    from transformers.models.mobilenet_v2.image_processing_pil_mobilenet_v2 import (
        MobileNetV2ImageProcessorPil,
    )

    config = MobileNetV2Config(
        image_size=image_size,
        depth_multiplier=0.1,
        finegrained_output=False,
        output_stride=8,
        initializer_range=0.1,
        **names,
    )
    processor = MobileNetV2ImageProcessorPil(
        size={"shortest_edge": image_size * 8 // 7}, crop_size=_square(image_size)
    )
    return MobileNetV2ForImageClassification(config), processor


_BUILDERS = {name: globals()[f"_{name}"] for name in ARCHITECTURES}


def draw_picture(
    size: int | tuple[int, int] = 48, seed: int = 0, residue: bool = False
) -> Image.Image:
    """Draw a smooth scene with a few shapes and sensor noise.

    Args:
        size (`int` or `(width, height)`, *optional*, defaults to 48): in pixels.
        seed (`int`, *optional*, defaults to 0): different seeds draw different scenes.
        residue (`bool`, *optional*): add a checkerboard of 2×2 pixels, the mark of the class `ai`.
            Its amplitude of ±10 levels survives JPEG at quality 90.
    """
    width, height = (size, size) if isinstance(size, int) else size
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    angle, phase = rng.uniform(0, 2 * np.pi, 2)
    ramp = np.cos(angle) * x / width + np.sin(angle) * y / height
    wave = np.sin(
        2 * np.pi * (rng.uniform(0.5, 1.5) * x / width + rng.uniform(0.5, 1.5) * y / height) + phase
    )
    light = (
        rng.uniform(70, 180, 3) + ramp[..., None] * rng.uniform(-70, 70, 3) + wave[..., None] * 20
    )
    picture = Image.fromarray(light.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.integers(2, 6)):
        left, top = rng.uniform(-0.2, 0.9, 2) * (width, height)
        across, down = rng.uniform(0.15, 0.6, 2) * (width, height)
        colour = tuple(int(level) for level in rng.integers(30, 225, 3))
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((left, top, left + across, top + down), fill=colour)
    picture = picture.filter(ImageFilter.GaussianBlur(0.7))
    pixels = np.asarray(picture, dtype=np.float64) + rng.normal(0, 2, (height, width, 1))
    if residue:
        cells = (x // 2 + y // 2) % 2
        pixels += (cells * 20 - 10)[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def draw_corpus(folder: str | Path, n: int = 40, size: int = 48, seed: int = 0) -> Path:
    """Draw `n` pictures, half of them in `folder/real` and half in `folder/ai`.

    All are JPEG at quality 90 with the same size, so only the residue differs by class. Every scene
    occurs once.

    Returns:
        `Path`: the folder.
    """
    folder = Path(folder)
    for position in range(n):
        label = "ai" if position % 2 else "real"
        (folder / label).mkdir(parents=True, exist_ok=True)
        picture = draw_picture(size, seed=seed * 1_000_003 + position, residue=label == "ai")
        picture.save(folder / label / f"{position // 2:04d}.jpg", quality=90)
    return folder
