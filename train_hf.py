"""Fine-tune an image classifier to tell photographs from AI-generated images.

    python train_hf.py --dataset user/corpus --model_name_or_path google/vit-base-patch16-224 --output_dir runs/vit

    # two GPUs, pushed to the Hub
    accelerate launch --num_processes 2 train_hf.py --dataset ./corpus --model_name_or_path facebook/convnextv2-tiny-22k-224 \
        --output_dir runs/convnext --push_to_hub --hub_model_id user/my-detector

    # two CPU processes (--cpu silently starts one)
    accelerate launch --multi_gpu --num_processes 2 train_hf.py --use_cpu --ddp_backend gloo --dataset ./corpus …

    # two machines (the file says how), on Slurm, on Hugging Face's machines
    accelerate launch --config_file scripts/multi_node.yaml --machine_rank 0 --main_process_ip 10.0.0.1 train_hf.py --dataset …
    sbatch --nodes 2 --ntasks-per-node 1 --gpus-per-node 8 --requeue --wrap 'srun bash -c "accelerate launch --config_file \\
        scripts/multi_node.yaml --machine_rank \\$SLURM_NODEID --main_process_ip $(scontrol show hostnames | head -n 1) train_hf.py …"'
    hf jobs run --flavor a10g-small --timeout 12h --secrets HF_TOKEN python:3.11 bash -c "
        git clone https://github.com/user/realfake && cd realfake && pip install -q -r requirements.txt &&
        accelerate launch train_hf.py --dataset user/corpus … --push_to_hub --hub_model_id user/my-detector"

    # look before you train; measure a finished checkpoint
    python train_hf.py --dataset ./corpus --model_name_or_path … --dry_run
    python train_hf.py --dataset ./corpus --model_name_or_path runs/vit --evaluate_only test --output_dir runs/vit

    # a second stage, on what the first one got wrong
    python train_hf.py --dataset ./corpus --model_name_or_path runs/vit --evaluate_only train --output_dir runs/vit
    python train_hf.py --dataset ./corpus --model_name_or_path runs/vit --hard_examples runs/vit --learning_rate 3e-5 --output_dir runs/vit-2

    # look for good options first, in twenty short trainings
    python train_hf.py --dataset ./corpus --model_name_or_path … --search 20 --num_train_epochs 2 --output_dir runs/search

A run that was interrupted continues when the same command is given again. `--help` lists every option.
"""

import sys

from realfake.cli.main import dispatch, end


def main() -> int:
    """Run `realfake train` with the options of this command line and return the exit status."""
    return dispatch(["train", *sys.argv[1:]])


if __name__ == "__main__":
    end(main())
