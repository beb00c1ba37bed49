"""Train a small CLIP: a picture tower and a text tower whose features agree where a caption fits a picture.

    python -m trainers.clip --data toybox --output runs/toybox-clip

Every step: a batch of pictures and their captions; each picture must find its caption among the batch, and each caption
its picture (Radford et al. 2021, arXiv:2103.00020, figure 3; the temperature is learned). Beside the captions of the
batch stand near ones (near.py): without them colours alone find the right caption, and the words for objects and places
are never told apart. The tokenizer is a byte-level BPE as
CLIP's, with a vocabulary of its own: a word it does not know falls into pieces, never into an error.

The result, <output>/model, is a CLIPModel folder that transformers loads, with tokenizer and image processor.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from studio.models.vocabulary import END, START, vocabulary_of
from studio.runs.trainers.clip import ClipOptions
from studio.toybox import ATTRIBUTES, RELATIONS, WORLDS, PairScene, caption
from trainers.captions import Captioned, draw_scenes, load_captioned, token_ids, toybox_scenes, word
from trainers.loop import Losses, StepLog, Task, run_loop
from trainers.near import near_scene, swapped_colours, with_relation
from trainers.pipelines import save_network
from trainers.program import run_program

__all__ = ["ClipOptions", "train", "make_tokenizer", "retrieval_accuracy", "attribute_accuracy", "pair_accuracy"]


# --- the tokenizer -------------------------------------------------------------------------------------------

def make_tokenizer(texts: Iterable[str], max_tokens: int) -> Any:
    """A CLIPTokenizer in whose vocabulary every word of `texts` is one token, and every byte is one besides."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    learner.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=4096, min_frequency=1, end_of_word_suffix="</w>", show_progress=False))
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    return CLIPTokenizer(vocab=vocabulary_of(merges), merges=merges, unk_token=END, bos_token=START, eos_token=END, pad_token=END, model_max_length=max_tokens)


def toybox_texts() -> list[str]:
    """Every word of the embedded world, several times over."""
    rng = np.random.default_rng(0)
    return [caption(scene, rng) for scene in toybox_scenes(0, 6000, "all", "toybox-world")]


# --- the network ---------------------------------------------------------------------------------------------

def make_network(options: ClipOptions, tokenizer: Any) -> Any:
    """A small CLIPModel; pixels enter in [-1, 1]."""
    from transformers import CLIPConfig, CLIPModel

    tower = {"hidden_size": options.width, "intermediate_size": 4 * options.width, "num_attention_heads": options.width // 32, "projection_dim": options.width}
    text = {
        **tower, "num_hidden_layers": options.text_layers, "vocab_size": len(tokenizer), "max_position_embeddings": options.max_tokens,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**tower, "num_hidden_layers": options.vision_layers, "image_size": options.resolution, "patch_size": options.patch}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=options.width))


class ClipTask(Task):
    """Captioned pictures and the two towers."""

    def __init__(self, options: ClipOptions):
        self.options = options
        torch.manual_seed(options.seed)
        if options.towers == "text":
            self.data = Captioned(pixels=torch.empty(0), texts=toybox_scenes(options.seed, options.data_limit, world=options.data))
        else:
            self.data = load_captioned(options.data, options.resolution, limit=options.data_limit, seed=options.seed)
        self.size = len(self.data.texts)
        self.tokenizer, self.network = _load(options.start) if options.start else _new(options, self.data)
        model = self.network
        frozen = {"both": [], "text": [model.vision_model, model.visual_projection], "picture": [model.text_model, model.text_projection]}[options.towers]
        for part in frozen:
            part.requires_grad_(False)

    def losses(self, network: Any, indices: Tensor, generator: torch.Generator, device: torch.device) -> Losses:
        seed, count = generator.initial_seed(), len(indices)
        ids = token_ids(self.tokenizer, self._captions(indices, seed))
        if self.options.towers == "text":
            logits = self._wordings_to_captions(network, indices, seed, ids.to(device))
        else:
            logits = network(input_ids=ids.to(device), pixel_values=self.data.batch(indices).to(device)).logits_per_image  # (B, B + near ones)
        # Equal captions fit each other's pictures: they share the target instead of being set against each other.
        same = (ids[:count, None] == ids[None]).all(-1).float().to(device)
        own = same[:, :count]
        picture_to_text = -(same / same.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1)
        text_to_picture = -(own / own.sum(0, keepdim=True) * logits[:, :count].log_softmax(0)).sum(0)
        each = (picture_to_text + text_to_picture) / 2
        right = same.gather(1, logits.argmax(1, keepdim=True)).mean()
        return Losses(descend=each.mean(), each=each, extra={"accuracy": right, "logit_scale": self.network.logit_scale.exp()})

    def _wordings_to_captions(self, network: Any, indices: Tensor, seed: int, ids: Tensor) -> Tensor:
        """(B, B + near ones) logits of second wordings of the scenes against the captions, as if the wordings were pictures."""
        count = len(indices)
        wordings = [caption(self.data.texts[int(i)], np.random.default_rng([seed, 1 << 20, k])) for k, i in enumerate(indices)]
        features = text_features(network, torch.cat([token_ids(self.tokenizer, wordings).to(ids.device), ids]))
        return features[:count] @ features[count:].T * self.network.logit_scale.exp()

    def _captions(self, indices: Tensor, seed: int) -> list[str]:
        """The captions of the pictures, then round after round of near ones, in the same wording."""
        scenes = [self.data.texts[int(i)] for i in indices]
        near = 0 if isinstance(scenes[0], str) else self.options.near_captions
        rounds = [scenes] + [[near_scene(scene, np.random.default_rng([seed, r, k])) for k, scene in enumerate(scenes)] for r in range(near)]
        return [word(scene, np.random.default_rng([seed, k])) for row in rounds for k, scene in enumerate(row)]

    def save(self, network: Any, path: Path) -> None:
        save_model(path, self.options, network, self.tokenizer)


def text_features(model: Any, ids: Tensor) -> Tensor:
    """(B, D) unit vectors of the texts."""
    features = model.text_projection(model.text_model(input_ids=ids).pooler_output)
    return features / features.norm(dim=-1, keepdim=True)


def _new(options: ClipOptions, data: Captioned) -> tuple[Any, Any]:
    texts = toybox_texts() if options.data in WORLDS else [str(text) for text in data.texts]
    tokenizer = make_tokenizer(texts, options.max_tokens)
    return tokenizer, make_network(options, tokenizer)


def _load(folder: str) -> tuple[Any, Any]:
    from transformers import CLIPModel, CLIPTokenizer

    return CLIPTokenizer.from_pretrained(folder), CLIPModel.from_pretrained(folder, dtype=torch.float32)


def save_model(path: Path, options: ClipOptions, network: Any, tokenizer: Any) -> None:
    """Write the folder that transformers loads, in fp16."""
    from transformers import CLIPImageProcessor

    size = options.resolution
    save_network(network, path)
    tokenizer.save_pretrained(path)
    CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}, image_mean=[0.5] * 3, image_std=[0.5] * 3,
    ).save_pretrained(path)


def train(options: ClipOptions, *, progress: bool = True) -> Iterator[StepLog]:
    """Run (or resume) a training, one StepLog a step: see trainers.loop.run_loop."""
    yield from run_loop(ClipTask(options), progress=progress)


# --- judging -------------------------------------------------------------------------------------------------

@torch.inference_mode()
def retrieval_accuracy(
    model: Any, tokenizer: Any, *, split: str = "held_out", groups: int = 50, choices: int = 64, seed: int = 5_000, world: str = "toybox",
) -> float:
    """Share of pictures that find their own full caption among `choices` different ones, over groups x choices scenes."""
    right = 0
    for group in range(groups):
        by_caption = {caption(scene): scene for scene in toybox_scenes(seed + group, 2 * choices, split, world)}
        texts, scenes = zip(*list(by_caption.items())[:choices])
        pictures = Captioned(pixels=draw_scenes(scenes, model.config.vision_config.image_size), texts=scenes)
        logits = model(input_ids=token_ids(tokenizer, list(texts)), pixel_values=pictures.batch(torch.arange(choices))).logits_per_image
        right += int((logits.argmax(1) == torch.arange(choices)).sum())
    return right / (groups * choices)


@torch.inference_mode()
def attribute_accuracy(model: Any, tokenizer: Any, attribute: str, *, split: str = "held_out", count: int = 200, seed: int = 9_000) -> float:
    """Share of pictures that find their caption among those that differ in this attribute alone, over `count` fresh scenes."""
    scenes = toybox_scenes(seed, count, split)
    pictures = Captioned(pixels=draw_scenes(scenes, model.config.vision_config.image_size), texts=scenes)
    names, right = ATTRIBUTES[attribute], 0
    for i, scene in enumerate(scenes):
        texts = [caption(replace(scene, **{attribute: name})) for name in names]
        logits = model(input_ids=token_ids(tokenizer, texts), pixel_values=pictures.batch(torch.tensor([i]))).logits_per_image
        right += names[int(logits.argmax())] == getattr(scene, attribute)
    return right / count


def told_relations(scene: PairScene, rng: np.random.Generator) -> list[str]:
    """The scene's full caption, then the same with each other relation that says something."""
    others = [relation for relation in RELATIONS if relation not in (scene.relation, "and")]
    return [caption(scene), *(caption(with_relation(scene, relation, rng)) for relation in others)]


def told_colours(scene: PairScene, rng: np.random.Generator) -> list[str]:
    """The scene's full caption, and the one with the two colours swapped."""
    return [caption(scene), caption(swapped_colours(scene, rng))]


@torch.inference_mode()
def pair_accuracy(model: Any, tokenizer: Any, *, split: str = "held_out", count: int = 200, seed: int = 9_500) -> dict[str, float]:
    """Share of pictures of two that find their caption among the four relations, and beside the one with swapped colours."""
    scenes = [scene for scene in toybox_scenes(seed, 2 * count, split, "toybox-pairs") if scene.relation != "and" and scene.first.colour != scene.second.colour]
    scenes = scenes[:count]
    pictures = Captioned(pixels=draw_scenes(scenes, model.config.vision_config.image_size), texts=scenes)
    right = {"relation": 0, "swapped colours": 0}
    for i, scene in enumerate(scenes):
        rng = np.random.default_rng([seed, i])
        for name, texts in (("relation", told_relations(scene, rng)), ("swapped colours", told_colours(scene, rng))):
            logits = model(input_ids=token_ids(tokenizer, texts), pixel_values=pictures.batch(torch.tensor([i]))).logits_per_image
            right[name] += int(logits.argmax()) == 0
    return {name: share / len(scenes) for name, share in right.items()}


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    run_program(ClipOptions, train, argv, description="Train a small CLIP.")


if __name__ == "__main__":
    main()
