"""Classifiers with hand-set weights: the answer depends only on how red the image is, and where.

Each takes pixels as they are, answers with the logits of (real, ai), and has no knowledge but red =
ai: a red patch on black is the only thing that can be responsible for the score, so that every map
must point at it.
"""

import torch
import transformers as tf
from torch import nn

_TOKENS = {
    "patch_size": 16,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "intermediate_size": 8,
    "layer_norm_eps": 1e-2,
    "num_labels": 2,
}
# Layer norms compare red with this; without it, a trace of red would become full red.
_OFFSET = torch.tensor([1.0, -1.0])


def only_norms(model: nn.Module) -> None:
    """Set every weight to zero except the layer norms': only the residual path remains."""
    for module in model.modules():
        norm = "LayerNorm" in type(module).__name__ or "Layernorm" in type(module).__name__
        for name, parameter in module.named_parameters(recurse=False):
            parameter.fill_(1.0 if norm and name == "weight" else 0.0)


def embed_red(projection: nn.Conv2d) -> None:
    """Channel 0 is a patch's mean red, 1 its negative, 2 and 3 are constant."""
    pixels = projection.kernel_size[0] * projection.kernel_size[1]
    projection.weight[0, 0], projection.weight[1, 0] = 1 / pixels, -1 / pixels
    projection.bias[2:4] = _OFFSET


def read_red(classifier: nn.Linear, channel: int = 0, gain: float = 1.0) -> None:
    """The margin is the red channel less its negative."""
    classifier.weight.zero_()
    classifier.bias.zero_()
    classifier.weight[1, channel], classifier.weight[0, channel] = gain, -gain


def attend_to_red(attention: nn.Module, class_tokens) -> None:
    """Class tokens attend to red patches and carry red into channel 4."""
    for token in class_tokens:
        token[0, 0, 5] = 1.0
    projections = {name.rsplit(".", 1)[-1]: module for name, module in attention.named_modules()}
    projections["q_proj"].bias[0] = 4.0
    projections["k_proj"].weight[0, 0] = 2.0
    projections["v_proj"].weight[4, 0] = 1.0
    projections["o_proj"].weight.copy_(torch.eye(8))


def red_vit(image_size=(48, 64)):
    model = tf.ViTForImageClassification(tf.ViTConfig(image_size=image_size, **_TOKENS))
    with torch.no_grad():
        only_norms(model)
        model.vit.embeddings.patch_embeddings.projection.weight[0, 0] = 1 / 256
        attend_to_red(model.vit.layers[-1].attention, [model.vit.embeddings.cls_token])
        read_red(model.classifier, 4)
    return model.eval()


def red_deit(image_size=(48, 64)):
    model = tf.DeiTForImageClassification(tf.DeiTConfig(image_size=image_size, **_TOKENS))
    with torch.no_grad():
        only_norms(model)
        embeddings = model.deit.embeddings
        embeddings.patch_embeddings.projection.weight[0, 0] = 1 / 256
        attention = next(m for n, m in model.named_modules() if n.endswith("layers.1.attention"))
        attend_to_red(attention, [embeddings.cls_token, embeddings.distillation_token])
        read_red(model.classifier, 4)
    return model.eval()


def red_dinov2(image_size=(64, 64)):
    options = {key: value for key, value in _TOKENS.items() if key != "intermediate_size"}
    model = tf.Dinov2ForImageClassification(
        tf.Dinov2Config(image_size=image_size, mlp_ratio=1, **options)
    )
    with torch.no_grad():
        only_norms(model)
        embed_red(model.dinov2.embeddings.patch_embeddings.projection)
        read_red(model.classifier, 8)  # behind the class token's eight channels: the patches' mean
    return model.eval()


def red_siglip(image_size=(64, 64)):
    vision = {**_TOKENS, "image_size": image_size[0]}
    text = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
    }
    text |= {"vocab_size": 8, "projection_size": 8, "bos_token_id": 0, "eos_token_id": 1}
    config = tf.SiglipConfig(vision_config=vision, text_config=text, num_labels=2)
    model = tf.SiglipForImageClassification(config)
    with torch.no_grad():
        only_norms(model)
        embed_red(model.vision_model.embeddings.patch_embedding)
        read_red(model.classifier)
    return model.eval()


def _red_swin(kind, image_size):
    config = getattr(tf, f"{kind}Config")(
        image_size=image_size,
        patch_size=4,
        embed_dim=4,
        depths=[1, 1],
        num_heads=[1, 1],
        window_size=4,
        mlp_ratio=1.0,
        layer_norm_eps=1e-2,
        num_labels=2,
    )
    model = getattr(tf, f"{kind}ForImageClassification")(config)
    body = model.swin if kind == "Swin" else model.swinv2
    with torch.no_grad():
        only_norms(model)
        # Version 2 norms what a block adds; with a zero weight it adds nothing.
        for name, module in model.named_modules():
            if kind == "Swinv2" and name.endswith(("layernorm_before", "layernorm_after")):
                module.weight.zero_()
        embed_red(body.embeddings.patch_embeddings.projection)
        for name, module in model.named_modules():
            if name.endswith("downsample.reduction"):
                for channel in range(4):
                    # Four neighbours, one after another in the channels, are averaged.
                    module.weight[channel, channel::4] = 0.25
        read_red(model.classifier)
    return model.eval()


def red_swin(image_size=(64, 96)):
    return _red_swin("Swin", image_size)


def red_swinv2(image_size=(64, 96)):
    return _red_swin("Swinv2", image_size)


def _red_convnext(kind):
    config = getattr(tf, f"{kind}Config")(
        num_stages=2, hidden_sizes=[4, 4], depths=[1, 1], patch_size=4, num_labels=2
    )
    model = getattr(tf, f"{kind}ForImageClassification")(config)
    body = getattr(model, kind.lower())
    with torch.no_grad():
        only_norms(model)
        embed_red(body.embeddings.patch_embeddings)
        for module in body.encoder.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (2, 2):
                module.weight[range(4), range(4)] = 0.25
        model.classifier.weight[1, 0], model.classifier.weight[1, 1] = 1.0, -1.0
    return model.eval()


def red_convnext(image_size=(64, 96)):
    return _red_convnext("ConvNext")


def red_convnextv2(image_size=(64, 96)):
    return _red_convnext("ConvNextV2")


def _pass_on(model: nn.Module) -> None:
    """Make every convolution and batch norm the identity: red stays in channel 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.zero_()
            if module.bias is not None:
                module.bias.zero_()
            middle = tuple(side // 2 for side in module.kernel_size)
            if module.groups > 1:
                module.weight[:, 0, middle[0], middle[1]] = 1.0
            else:
                for channel in range(min(module.in_channels, module.out_channels)):
                    module.weight[channel, channel, middle[0], middle[1]] = 1.0
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.weight.fill_(1.0)
            module.bias.zero_()


def red_resnet(image_size=(64, 96)):
    config = tf.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=2
    )
    model = tf.ResNetForImageClassification(config)
    with torch.no_grad():
        _pass_on(model)
        read_red(model.classifier[1])
    return model.eval()


def red_efficientnet(image_size=(64, 96)):
    config = tf.EfficientNetConfig(
        width_coefficient=1.0,
        depth_coefficient=1.0,
        kernel_sizes=[3, 3],
        in_channels=[32, 16],
        out_channels=[16, 24],
        strides=[1, 2],
        num_block_repeats=[1, 1],
        expand_ratios=[1, 4],
        hidden_dim=1280,
        num_labels=2,
    )
    model = tf.EfficientNetForImageClassification(config)
    with torch.no_grad():
        _pass_on(model)
        for name, module in model.named_modules():
            if "squeeze_excite" in name and isinstance(module, nn.Conv2d):
                module.weight.zero_()  # halves every channel, alike everywhere
        read_red(model.classifier, gain=100.0)
    return model.eval()


def red_mobilenet_v2(image_size=(64, 96)):
    model = tf.MobileNetV2ForImageClassification(
        tf.MobileNetV2Config(depth_multiplier=0.1, output_stride=8, num_labels=2)
    )
    with torch.no_grad():
        _pass_on(model)
        for module in model.modules():
            if getattr(module, "use_residual", False):
                # Otherwise red would double from block to block.
                module.reduce_1x1.convolution.weight.zero_()
        read_red(model.classifier)
    return model.eval()


# name: (builder, size of its input)
RED = {
    "ViT": (red_vit, (48, 64)),
    "DeiT": (red_deit, (48, 64)),
    "DINOv2": (red_dinov2, (64, 64)),
    "SigLIP": (red_siglip, (64, 64)),
    "Swin": (red_swin, (64, 96)),
    "SwinV2": (red_swinv2, (64, 96)),
    "ConvNeXt": (red_convnext, (64, 96)),
    "ConvNeXtV2": (red_convnextv2, (64, 96)),
    "ResNet": (red_resnet, (64, 96)),
    "EfficientNet": (red_efficientnet, (64, 96)),
    "MobileNetV2": (red_mobilenet_v2, (64, 96)),
}


def red_square(size, rows, columns) -> torch.Tensor:
    """Black pixels, (1, 3, *size), with a red square at those rows and columns."""
    pixels = torch.zeros(1, 3, *size)
    pixels[0, 0, rows[0] : rows[1], columns[0] : columns[1]] = 1.0
    return pixels
