"""Cut a vision transformer to its first blocks.

The middle blocks of a pretrained transformer often hold more of a generator's traces than the last
ones, and fewer blocks cost less. Used before a training.
"""

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel


def truncate(model: PreTrainedModel, blocks: int) -> None:
    """Keep the first blocks of a vision transformer, in place, and correct its configuration.

    Args:
        model: An image classifier of transformers with one list of equal blocks.
        blocks: Number of blocks to keep.

    Raises:
        ValueError: The model has no such list, or fewer blocks.
    """
    config = getattr(model.config, "vision_config", model.config)
    count = getattr(config, "num_hidden_layers", None)
    lists = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == count
    ]
    # The stages of Swin have different widths, so its head would not fit.
    if count is None or len(lists) != 1 or hasattr(config, "depths"):
        raise ValueError(
            f"--blocks: {type(model).__name__} is not a transformer with one list of blocks; leave "
            "the option out."
        )
    if not 1 <= blocks <= count:
        raise ValueError(f"--blocks must lie between 1 and {count}, not {blocks}.")
    parent, name, layers = lists[0]
    setattr(parent, name, layers[:blocks])
    _truncate_config(config, blocks)


def _truncate_config(config: PretrainedConfig, blocks: int) -> None:
    config.num_hidden_layers = blocks
    # A backbone such as DINOv2 also lists its stages: the stem and one for each block. Its
    # configuration does not open if the list and the number of blocks differ.
    if stages := getattr(config, "stage_names", None):
        config.stage_names = list(stages)[: blocks + 1]
        config.set_output_features_output_indices([config.stage_names[-1]], [blocks])
