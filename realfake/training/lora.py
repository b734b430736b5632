"""Low-rank adapters (LoRA, Hu et al. 2021): small matrices are trained beside frozen weights.

peft puts the adapters into the classifier before the training. At the end they are merged into the
weights, so that the calibration and the stored checkpoint are those of an ordinary model.
"""

from pathlib import Path

import torch
from huggingface_hub import ModelCardData
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from realfake.card.facts import hub_id
from realfake.io import write_atomically
from realfake.models.folding import final_linears

# In the folder of a finished run: the adapters and the head, as `PeftModel.from_pretrained` opens
# them.
ADAPTER_FOLDER = "adapter"
# In a checkpoint during the training: everything that differs from the base model.
TASK = "image-classification"
ADAPTED_NAME = "adapted.safetensors"


def add_adapters(model: PreTrainedModel, rank: int, alpha: float | None = None) -> None:
    """Put adapters beside all linear layers of the backbone, in place, and freeze its weights.

    The last linear layer is trained as a whole.

    Args:
        model: An image classifier of transformers.
        rank: Rank of the adapters.
        alpha: *optional*, *defaults to* twice the rank. The output of an adapter is multiplied by
            alpha / rank.

    Raises:
        ModuleNotFoundError: peft is not installed.
        ValueError: The backbone has no linear layers.
    """
    from peft import LoraConfig, inject_adapter_in_model

    heads = list(final_linears(model))
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name not in heads
    ]
    if not layers:
        raise ValueError(
            f"--lora_rank: {type(model).__name__} has no linear layers except the last one; leave "
            "the option out."
        )
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank if alpha is None else alpha, target_modules=layers, bias="none"
    )
    inject_adapter_in_model(config, model)
    of_heads = tuple(f"{head}." for head in heads)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name or name.startswith(of_heads))


def has_adapters(model: PreTrainedModel) -> bool:
    """Return whether a model has adapters that are not merged."""
    return hasattr(model, "peft_config")


@torch.no_grad()
def merged_state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the weights with the adapters added, under the names of the model without adapters."""
    from peft.tuners.lora import LoraLayer

    layers = {name: each for name, each in model.named_modules() if isinstance(each, LoraLayer)}
    state = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in model.state_dict().items()
        if ".lora_" not in name
    }
    for name, layer in layers.items():
        weight = f"{name}.weight"
        state[weight] = state[weight] + layer.get_delta_weight("default").to(state[weight])
    return state


def merge_adapters(model: PreTrainedModel) -> None:
    """Add the adapters to the weights and remove them, in place. All weights can be trained again.

    A model without adapters stays as it is.
    """
    if not has_adapters(model):
        return
    from peft.tuners.lora import LoraLayer

    state = merged_state(model)
    layers = [(name, each) for name, each in model.named_modules() if isinstance(each, LoraLayer)]
    for name, layer in layers:
        model.set_submodule(name, layer.get_base_layer())
    model.load_state_dict(state)
    del model.peft_config
    model.requires_grad_(True)


def save_adapters(model: PreTrainedModel, folder: str | Path, base: str) -> None:
    """Write the adapters and the head, before calibration, in the format of peft.

    Args:
        model: The classifier before the merge.
        folder: Folder of the run; the files go into its folder `adapter`. With `--blocks` the
            base model has to be cut before peft adds them.
        base: Hub id or folder of the model that was adapted.
    """
    from peft import get_peft_model_state_dict

    folder = Path(folder) / ADAPTER_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    heads = final_linears(model)
    # Else peft asks the Hub whether the base has other embeddings.
    state = dict(get_peft_model_state_dict(model, save_embedding_layers=False))
    for name, head in heads.items():
        state |= {f"{name}.{key}": value for key, value in head.state_dict().items()}
    state = {f"base_model.model.{name}": tensor for name, tensor in state.items()}
    _save(state, folder / "adapter_model.safetensors")
    config = model.peft_config["default"]
    config.base_model_name_or_path, config.modules_to_save = base, list(heads)
    config.save_pretrained(str(folder))
    metadata = {"library_name": "peft", "base_model": hub_id(base), "pipeline_tag": TASK}
    card = ModelCardData(**{name: value for name, value in metadata.items() if value})
    text = (
        f"---\n{card.to_yaml()}\n---\n\n# Adapters\n\nLow-rank adapters and the head, before "
        "calibration. The folder above holds the calibrated model, with the adapters merged.\n"
    )
    write_atomically(folder / "README.md", text)


def save_trained(model: PreTrainedModel, folder: str | Path) -> None:
    """Write the adapters, the head and the buffers into a checkpoint, in full precision."""
    _save(_trained(model), Path(folder) / ADAPTED_NAME)


@torch.no_grad()
def load_trained(model: PreTrainedModel, folder: str | Path) -> None:
    """Load the file of [`save_trained`] into the model.

    Raises:
        ValueError: The checkpoint is of a training without adapters, or of another rank.
    """
    path = Path(folder) / ADAPTED_NAME
    tensors, stored = _trained(model), load_file(path) if path.is_file() else {}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if shapes != {name: tensor.shape for name, tensor in stored.items()}:
        raise ValueError(
            f"{folder} was not trained with this --lora_rank; give the options of that run, or "
            "another --output_dir."
        )
    for name, tensor in tensors.items():
        tensor.copy_(stored[name])


def _trained(model: nn.Module) -> dict[str, torch.Tensor]:
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    return {**trained, **dict(model.named_buffers())}


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    save_file({name: each.detach().contiguous().cpu() for name, each in tensors.items()}, path)
