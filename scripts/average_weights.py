"""Average the weights of two checkpoints of one architecture, as model soups do.

    python scripts/average_weights.py runs/first runs/second runs/averaged

The other files are those of the second one. The result is not calibrated: `realfake calibrate` does
that. Source: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models".
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from transformers import AutoModelForImageClassification

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("first", "second", "output"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    models = [
        AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32)
        for folder in (args.first, args.second)
    ]
    other = models[1].state_dict()
    mean = {name: (value + other[name]) / 2 for name, value in models[0].state_dict().items()}
    models[0].load_state_dict(mean)
    models[0].config.realfake = None
    models[0].save_pretrained(args.output)
    shutil.copy(args.second / "preprocessor_config.json", args.output)
    if (args.second / "training.json").is_file():
        facts = json.loads((args.second / "training.json").read_text())
        facts["command"] += (
            f"\npython scripts/average_weights.py {args.first} {args.second} {args.output}"
        )
        text = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
        (args.output / "training.json").write_text(text)
