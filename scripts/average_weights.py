"""Average the weights of checkpoints of one architecture, as model soups do.

    python scripts/average_weights.py runs/first runs/second runs/averaged

The other files are those of the last one. The result is not calibrated: `realfake calibrate` does
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
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    models = [
        AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32)
        for folder in args.checkpoints
    ]
    states = [model.state_dict() for model in models]
    mean = {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}
    model, last = models[-1], args.checkpoints[-1]
    model.load_state_dict(mean)
    model.config.realfake = None
    model.save_pretrained(args.output)
    shutil.copy(last / "preprocessor_config.json", args.output)
    if (last / "training.json").is_file():
        facts = json.loads((last / "training.json").read_text())
        folders = " ".join(map(str, [*args.checkpoints, args.output]))
        facts["command"] += f"\npython scripts/average_weights.py {folders}"
        text = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
        (args.output / "training.json").write_text(text)
