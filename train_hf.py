# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["realfake @ git+https://github.com/user/realfake"]
# ///
"""Fine-tune an image classifier to tell photographs from AI-generated images.

    python train_hf.py --dataset user/corpus --output_dir runs/vit \\
        --model_name_or_path google/vit-base-patch16-224

Arguments → corpus → model → trainer → training → calibration → measurement → card → Hub: the steps
are in `realfake/cli/train.py`; `realfake train` is the same command. `--help` lists all options.
The same command continues an interrupted run.

    # without a clone, here or on Hugging Face's machines
    uv run https://raw.githubusercontent.com/user/realfake/main/train_hf.py --dataset user/corpus …
    hf jobs uv run --flavor a10g-small --timeout 12h --secrets HF_TOKEN \\
        https://raw.githubusercontent.com/user/realfake/main/train_hf.py \\
        --dataset user/corpus … --push_to_hub --hub_model_id user/my-detector

    # two GPUs; --quiet omits accelerate's traceback after an error
    accelerate launch --quiet --num_processes 2 train_hf.py --dataset ./corpus \\
        --model_name_or_path facebook/convnextv2-tiny-22k-224 --output_dir runs/convnext

    # on a CPU: accelerate gives each process one thread unless it is told otherwise
    accelerate launch --quiet --num_cpu_threads_per_process 8 train_hf.py --dataset ./corpus …

    # two CPU processes (accelerate's --cpu would start one)
    accelerate launch --multi_gpu --num_processes 2 train_hf.py --use_cpu --ddp_backend gloo …

    # two machines; on Slurm
    accelerate launch --config_file scripts/multi_node.yaml --machine_rank 0 \\
        --main_process_ip 10.0.0.1 train_hf.py --dataset …
    sbatch --nodes 2 --ntasks-per-node 1 --gpus-per-node 8 --requeue --wrap 'srun bash -c "
        accelerate launch --config_file scripts/multi_node.yaml --machine_rank \\$SLURM_NODEID
        --main_process_ip $(scontrol show hostnames | head -n 1) train_hf.py …"'

    # show the corpus, the model and one batch; measure a finished checkpoint
    python train_hf.py --dataset ./corpus --model_name_or_path … --dry_run
    python train_hf.py --dataset ./corpus --model_name_or_path runs/vit --output_dir runs/vit \\
        --evaluate_only test

    # a transformer on native crops: pairs of photographs and their reconstructions, adapters,
    # half of the patches, one hour
    realfake corpus reconstruct photos/ --autoencoder stabilityai/sd-vae-ft-mse --output pairs
    python train_hf.py --dataset pairs --model_name_or_path facebook/dinov2-base \\
        --preprocessing native --image_size 224 --native_views --balance 0.5 --pair_share 0.5 \\
        --pair_mix 0.2 --blocks 9 --lora_rank 8 --learning_rate 5e-4 --probe_images 1500 \\
        --patch_dropout 0.5 --patch_dropout_until 0.9 --max_minutes 60 --output_dir runs/dinov2

    # search for hyperparameters in twenty short trainings
    python train_hf.py --dataset ./corpus --model_name_or_path … --output_dir runs/search \\
        --search 20 --num_train_epochs 2
"""

import sys

from realfake.cli.main import dispatch, end


def main() -> int:
    """Run `realfake train` with the options of this command line and return the exit status."""
    return dispatch(["train", *sys.argv[1:]])


if __name__ == "__main__":
    end(main())
