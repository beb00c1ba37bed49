"""Judge a trained pixel model on fresh seeds: is the class that was asked for in the picture, and is it a copy?

    python -m trainers.judge --model digits-ddpm --data digits

A support vector machine, trained on real pictures only, names the class of generated ones. Its own accuracy on real
pictures that it has not seen is stated beside. The distance of a generated picture to its nearest training picture is
compared with that of held-out real pictures: a model that copies lies nearer.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from studio import Finished, SampleOptions, Studio
from studio.errors import UnknownName
from studio.runs.trainers.options import option
from trainers.command_line import parse_options

__all__ = ["JudgeOptions", "judge"]


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """What is judged."""

    model: str = option("digits-ddpm", "a model of the catalogue, or a folder")
    data: str = option("digits", "what it was trained on", ("digits", "toybox", "toybox-large"))
    count: int = option(500, "generated pictures, the classes in turn")
    num_steps: int = option(50, "sampling steps")
    scheduler: str = option("ddim", "scheduler of the samples")
    seed: int = option(1_000_000, "of the first picture; training and its sample grids never used these")


def judge(options: JudgeOptions) -> dict[str, Any]:
    """The measured quality, as JSON-ready numbers."""
    if options.data not in REAL:
        raise UnknownName.of("data", options.data, REAL)
    (train, train_labels), (held_out, held_labels) = REAL[options.data]()
    features = FEATURES[options.data]
    classifier = _classifier().fit(features(train), train_labels)
    generated, asked = generate(options, classes=len(set(train_labels.tolist())))
    named = classifier.predict(features(generated))
    return {
        "generated": len(generated), "sampler": f"{options.scheduler}, {options.num_steps} steps, seeds from {options.seed}",
        "classifier_accuracy_on_held_out": float((classifier.predict(features(held_out)) == held_labels).mean()),
        "recognised_as_asked": float((named == asked).mean()),
        "recognised_per_class": [float((named[asked == label] == label).mean()) for label in sorted(set(asked.tolist()))],
        "nearest_training_picture": {
            "generated": _spread(nearest_distance(generated, train)), "held_out_real": _spread(nearest_distance(held_out, train)),
        },
    }


def _classifier() -> Any:
    from sklearn.svm import SVC

    return SVC(C=10, gamma="scale")


# --- real pictures, uint8 (N, H, W, C), with labels ----------------------------------------------------------

def _real_digits() -> Any:
    from trainers.data import digit_split

    return tuple((part.pixels.movedim(1, -1).numpy(), part.labels.numpy()) for part in digit_split(16))


def _real_toybox(**same: str) -> Any:
    """Scenes to train on and held-out ones; `same` are attributes that all of them share."""
    from itertools import islice

    from studio.toybox import OBJECTS, render_batch, scene_stream

    def scenes(seed: int, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
        drawn = [dataclasses.replace(scene, **same) for scene in islice(scene_stream(seed, split=split), count)]
        return render_batch(drawn, 32), np.array([list(OBJECTS).index(scene.object) for scene in drawn])

    return scenes(71, "train", 6000), scenes(72, "held_out", 1000)


def silhouettes(pixels: np.ndarray) -> np.ndarray:
    """What stands out from the background, cut out and brought to 20x20: colour and place do not matter to the judge."""
    return np.stack([_silhouette(picture.astype(np.float32)) for picture in pixels])


def _silhouette(picture: np.ndarray) -> np.ndarray:
    from PIL import Image

    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    distance = np.abs(picture - np.median(border, axis=0)).max(axis=-1)
    mask = np.clip(distance / max(distance.max(), 1) * 2, 0, 1)
    rows, columns = np.where(mask.max(1) > 0.5)[0], np.where(mask.max(0) > 0.5)[0]
    if not len(rows):
        return np.zeros(400, np.float32)
    cut = Image.fromarray(mask).crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    return np.asarray(cut.resize((20, 20), Image.Resampling.BILINEAR)).ravel()


def _flat(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(len(pixels), -1) / 255.0


def _real_toybox_large() -> Any:
    return _real_toybox(size="large", position="center")


REAL = {"digits": _real_digits, "toybox": _real_toybox, "toybox-large": _real_toybox_large}
FEATURES = {"digits": _flat, "toybox": silhouettes, "toybox-large": silhouettes}


# --- generated ones ------------------------------------------------------------------------------------------

def generate(options: JudgeOptions, classes: int, batch: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """(N, H, W, C) uint8 pictures and the labels asked for, N / classes of each class."""
    from tqdm import tqdm

    from studio.media.images import to_pixels

    studio, pixels, labels = Studio(), [], []
    each = options.count // classes
    for label in tqdm(range(classes), desc="classes"):
        for first in range(0, each, batch):
            wanted = min(batch, each - first)
            asked = SampleOptions(
                model=options.model, class_label=label, num_steps=options.num_steps, scheduler=options.scheduler,
                seed=options.seed + label * each + first, num_images=wanted,
            )
            (finished,) = [event for event in studio.sample(asked) if isinstance(event, Finished)]
            pixels.append(to_pixels(finished.trajectory.x_final))
            labels += [label] * wanted
    return np.concatenate(pixels), np.array(labels)


def nearest_distance(pictures: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Root mean square distance, in grey levels 0..255, of each picture to the training picture nearest to it."""
    from sklearn.neighbors import NearestNeighbors

    flat = training.reshape(len(training), -1).astype(np.float32)
    distance, _ = NearestNeighbors(n_neighbors=1).fit(flat).kneighbors(pictures.reshape(len(pictures), -1).astype(np.float32))
    return distance[:, 0] / np.sqrt(flat.shape[1])


def _spread(distance: np.ndarray) -> dict[str, float]:
    return {"smallest": float(distance.min()), "median": float(np.median(distance)), "largest": float(distance.max())}


def main(argv: list[str] | None = None) -> None:
    """The command line: prints the figures as JSON."""
    options = parse_options(JudgeOptions, argv, prog="python -m trainers.judge", description="Judge a trained pixel model.")
    print(json.dumps({"judged": dataclasses.asdict(options), **judge(options)}, indent=2))


if __name__ == "__main__":
    main()
