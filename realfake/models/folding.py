"""Fold a calibration into the last linear layer, and batch normalisation into convolutions.

The stock image-classification pipeline applies a softmax to the raw logits, without a temperature.
To take effect there, a calibration must be part of the weights.
"""

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from transformers import PretrainedConfig, PreTrainedModel

from realfake.labels import AI, REAL

# Pairs of heads whose logits are averaged (distillation): DeiT, LeViT and SwiftFormer.
_TWINS = (
    ("cls_classifier", "distillation_classifier"),
    ("classifier.linear", "classifier_distill.linear"),
    ("head", "dist_head"),
)
# Configuration fields for dropout, the classifier's first.
_DROPOUT_FIELDS = (
    "classifier_dropout_prob",
    "classifier_dropout",
    "dropout_rate",
    "hidden_dropout_prob",
)


def final_linears(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """Find the linear layers that compute the logits: one, or two if the model averages two heads.

    Raises:
        ValueError: No linear layer has as many outputs as the model has labels.
    """
    linears = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == model.config.num_labels
    }
    if not linears:
        raise ValueError(
            f"{type(model).__name__} does not end in a linear layer with {model.config.num_labels} "
            "outputs, so a calibration cannot be folded into it."
        )
    for twins in _TWINS:
        if all(name in linears for name in twins):
            return {name: linears[name] for name in twins}
    last = list(linears)[-1]
    return {last: linears[last]}


@torch.no_grad()
def fold(
    model: PreTrainedModel, class_indices: dict[str, list[int]], temperature: float, bias: float
) -> None:
    """Fold a temperature and a bias into the last linear layer, in place: logits' = logits / T + b.

    Args:
        model: An image classifier of transformers.
        class_indices: `{"real": [indices], "ai": [indices]}` of its logits.
        temperature: T > 0 (Guo et al. 2017, "On Calibration of Modern Neural Networks").
        bias: Added to the logits of the `ai` classes, so to the log-odds of `ai` (Platt 1999).

    Raises:
        ValueError: T is not positive, there is no such layer, or it has no bias and `bias` is not
            0.
    """
    if not temperature > 0:
        raise ValueError(f"A temperature must be positive, not {temperature}.")
    for name, linear in final_linears(model).items():
        if linear.bias is None and bias != 0:
            raise ValueError(
                f"The last layer {name!r} has no bias to fold the calibration's bias into; "
                "calibrate with a temperature only."
            )
        linear.weight.div_(temperature)
        if linear.bias is not None:
            linear.bias.div_(temperature)
            linear.bias[class_indices[AI]] += bias


def folding_error(
    before: torch.Tensor,
    after: torch.Tensor,
    class_indices: dict[str, list[int]],
    temperature: float,
    bias: float,
) -> float:
    """Return the largest deviation of `after` from `before` / T + b, relative to the largest logit.

    Args:
        before, after: Logits of shape `(n, labels)` before and after [`fold`].
        class_indices, temperature, bias: As in [`fold`].
    """
    expected = before.double() / temperature
    expected[:, class_indices[AI]] += bias
    scale = max(1.0, expected.abs().max().item())
    return (after.double() - expected).abs().max().item() / scale


def check_foldable(model: PreTrainedModel, pixel_values: torch.Tensor) -> None:
    """Check before training that a calibration can be folded in; the weights do not change.

    Raises:
        ValueError: The logits are not the output of the last linear layer.
    """
    linears = final_linears(model)
    kept = {
        name: {key: value.clone() for key, value in linear.state_dict().items()}
        for name, linear in linears.items()
    }
    class_indices = {REAL: [model.config.label2id[REAL]], AI: [model.config.label2id[AI]]}
    bias = 1.0 if has_bias(model) else 0.0
    with torch.inference_mode():
        before = model.eval()(pixel_values=pixel_values).logits
        fold(model, class_indices, 2.0, bias)
        after = model(pixel_values=pixel_values).logits
        for name, linear in linears.items():
            linear.load_state_dict(kept[name])
    if folding_error(before, after, class_indices, 2.0, bias) > 1e-3:
        raise ValueError(
            f"{type(model).__name__} changes its logits after the last linear layer, so a "
            "calibration cannot be folded into it; choose another architecture."
        )


def has_bias(model: PreTrainedModel) -> bool:
    """Return whether the last linear layer has a bias."""
    return all(linear.bias is not None for linear in final_linears(model).values())


def set_dropout(config: PretrainedConfig, dropout: float) -> str:
    """Set the dropout rate in the configuration field of the architecture.

    Returns:
        The name of the field.

    Raises:
        ValueError: The architecture has no dropout, or the rate is outside [0, 1).
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"--dropout must lie in [0, 1), not {dropout}.")
    for field in _DROPOUT_FIELDS:
        if hasattr(config, field):
            setattr(config, field, dropout)
            return field
    depth = ""
    if hasattr(config, "drop_path_rate"):
        depth = " It has stochastic depth: --config_overrides '{\"drop_path_rate\": 0.1}'."
    raise ValueError(
        f"The architecture {config.model_type!r} has no dropout; leave out --dropout.{depth}"
    )


def select_trainable(model: PreTrainedModel, trainable: str) -> list[str]:
    """Freeze all parameters except the selected ones.

    Args:
        trainable: `"all"`, `"head"` (the last linear layer), or `"last:N"` (the last N blocks of
            the backbone and everything after them).

    Returns:
        The names of the trainable parameters.

    Raises:
        ValueError: The value is unknown, or the model has fewer than N blocks.
    """
    names = [name for name, _ in model.named_parameters()]
    if trainable == "all":
        chosen = set(names)
    elif trainable == "head":
        heads = tuple(f"{name}." for name in final_linears(model))
        chosen = {name for name in names if name.startswith(heads)}
    elif trainable.startswith("last:") and trainable[5:].isdigit() and int(trainable[5:]) > 0:
        chosen = set(names[_first_of_last_blocks(model, names, int(trainable[5:])) :])
    else:
        raise ValueError(
            f"--trainable must be 'all', 'head' or 'last:N' with N > 0, not {trainable!r}."
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
    return [name for name in names if name in chosen]


def _first_of_last_blocks(model: PreTrainedModel, names: list[str], count: int) -> int:
    # The blocks are the outermost list of several modules with weights. Some architectures have
    # another such list with the embeddings between their stages.
    lists = [
        (name.count("."), name, module)
        for name, module in model.named_modules()
        if isinstance(module, (nn.ModuleList, nn.Sequential))
        and len(module) > 1
        and all(list(block.parameters()) for block in module)
        and not any(word in name for word in ("classifier", "embed"))
    ]
    if not lists:
        raise ValueError(
            f"{type(model).__name__} has no list of blocks; use --trainable head or all."
        )
    _, name, blocks = min(lists, key=lambda entry: entry[0])
    if count > len(blocks):
        raise ValueError(
            f"--trainable last:{count}: {type(model).__name__} has {len(blocks)} blocks ({name})."
        )
    prefix = f"{name}.{len(blocks) - count}."
    return next(index for index, parameter in enumerate(names) if parameter.startswith(prefix))


# Largest deviation of the logits that is fp32 rounding, relative to the largest logit.
TOLERANCE = 1e-4


@torch.no_grad()  # not inference mode: maps need gradients through the copy
def fold_batch_norms(model: nn.Module, pixels: torch.Tensor) -> nn.Module:
    """Return a copy of an image classifier with batch normalisations merged into convolutions.

    One forward pass finds the convolution before each normalisation. Other layers may use the
    output of that convolution too, so the logits of both models are compared.

    Args:
        model: In evaluation mode, in fp32.
        pixels: A few preprocessed images, of shape `(n, channels, height, width)`.

    Returns:
        The copy, in channels-last layout, which speeds up depthwise convolutions on a CPU; the
        unchanged model if it has no such layers, or if its logits would change.
    """
    followed = _followed_by(model, pixels)
    if not followed:
        return model
    folded = copy.deepcopy(model)
    for normalisation, convolution in followed.items():
        layers = folded.get_submodule(convolution), folded.get_submodule(normalisation)
        folded.set_submodule(convolution, fuse_conv_bn_eval(*layers))
        folded.set_submodule(normalisation, nn.Identity())
    folded = folded.to(memory_format=torch.channels_last)
    before, after = (each(pixel_values=pixels).logits for each in (model, folded))
    limit = TOLERANCE * before.abs().max().clamp(min=1)
    same = torch.isfinite(after).all() and (after - before).abs().max() <= limit
    return folded if same else model


def _followed_by(model: nn.Module, pixels: torch.Tensor) -> dict[str, str]:
    """Return `{name of a batch normalisation: name of the convolution before it}`."""
    # Keeps the outputs alive, so that their ids are unique.
    outputs: dict[int, tuple[torch.Tensor, str]] = {}
    followed: dict[str, str] = {}

    def note_output(name: str):
        return lambda module, inputs, output: outputs.update({id(output): (output, name)})

    def note_input(name: str):
        def hook(module, inputs):
            if id(inputs[0]) in outputs:
                followed[name] = outputs[id(inputs[0])][1]

        return hook

    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(note_output(name)))
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(note_input(name)))
    try:
        model(pixel_values=pixels)
    finally:
        for hook in hooks:
            hook.remove()
    # A convolution followed by two normalisations can be merged with neither.
    targets = list(followed.values())
    return {bn: conv for bn, conv in followed.items() if targets.count(conv) == 1}
