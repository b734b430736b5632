"""Make aligned pairs: photographs, and the same photographs through a generator's autoencoder.

    realfake corpus reconstruct photos/ --autoencoder stabilityai/sd-vae-ft-mse --output pairs
    realfake corpus reconstruct corpus/ --autoencoder taef2/ --output more --counterparts_only
    realfake train --dataset pairs --balance 0.5 --pair_share 0.5 --pair_mix 0.2 …

The output is a corpus in Parquet files. A reconstruction has the size, format, JPEG quality and
group of its photograph, and the generator "autoencoder (…)". Of a corpus, the photographs of the
training split are used. Needs diffusers, except for the tiny autoencoder of FLUX.2 (taef2).
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from realfake import io
from realfake.cli import options


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("photos", metavar="PHOTOS", help="folder of image files, or a corpus")
    parser.add_argument(
        "--autoencoder",
        required=True,
        metavar="ID_OR_FOLDER",
        help="AutoencoderKL or AutoencoderTiny of diffusers, or the folder of taef2",
    )
    options.add_output(parser, "new or empty folder for the corpus")
    parser.add_argument(
        "--counterparts_only",
        action="store_true",
        help="write the reconstructions without the photographs, to add them to a corpus",
    )
    parser.add_argument(
        "--max_images", type=options.at_least(1), help="number of photographs, drawn at random"
    )
    parser.add_argument(
        "--max_side",
        type=options.at_least(16),
        default=1024,
        metavar="PIXELS",
        help="crop larger photographs to their centre",
    )
    options.add_batch_size(parser, 8)
    options.add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Reconstruct the photographs and write the corpus."""
    import numpy as np
    from datasets import Dataset
    from tqdm.auto import tqdm

    from realfake.corpus import reconstruction, write
    from realfake.labels import AI, NAMES, REAL
    from realfake.models.autoencoders import load_autoencoder

    output = io.check_empty(args.output)
    photographs = reconstruction.read_photographs(args.photos)
    if args.counterparts_only and "group" not in photographs.column_names:
        raise ValueError(
            f"--counterparts_only: {args.photos} has no column group that ties a reconstruction to "
            "its photograph; leave the option out."
        )
    if args.max_images and args.max_images < len(photographs):
        drawn = np.random.default_rng(0).permutation(len(photographs))[: args.max_images]
        photographs = photographs.select(np.sort(drawn))
    folder = Path(args.autoencoder)
    name = folder.resolve().name if folder.is_dir() else args.autoencoder
    autoencoder = load_autoencoder(args.autoencoder, args.device)
    counts: Counter = Counter()

    def rows() -> Iterator[dict]:
        pairs = reconstruction.reconstruct(
            photographs, autoencoder, name, args.batch_size, args.max_side
        )
        for pair in tqdm(pairs, total=len(photographs), unit=" images"):
            for row in pair[1:] if args.counterparts_only else pair:
                counts[NAMES[row["label"]]] += 1
                yield row

    with io.locked_folder(output):
        io.check_empty(output)  # again, because reading takes time
        empty = Dataset.from_dict(
            {name: [] for name in reconstruction.FEATURES}, features=reconstruction.FEATURES
        )
        write.write_parquet(output, "train", empty, reconstruction.files_of(rows()))
        if not counts[AI]:
            raise ValueError(f"{args.photos} holds no photograph that can be decoded.")
        write.write_card(
            output,
            output.resolve().name,
            {"train": {label: counts[label] for label in (REAL, AI)}},
            "generator",
            {"train": f"{reconstruction.FAMILY} ({name})"},
            [
                "Each image of class `ai` is a photograph that passed through the autoencoder of "
                "an image generator. It has the size, format, JPEG quality and `group` of its "
                "photograph."
            ],
        )
    print(f"{counts[AI]:,} photographs reconstructed, written to {args.output}")
    return 0
