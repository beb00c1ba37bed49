"""Train a reward on rankings: the loss, and the trainer.

    python -m trainers.reward --data rankings --format database --output runs/reward
    python -m trainers.reward --data export.zip --start toybox-reward --learns head

Each step: for all pairs of some rankings, each picture seen once, loss = -log sigmoid(r_better - r_worse) (Xu et al. 2023, arXiv:2304.05977,
equation 1); of a tie, with a tie band, how far the two are apart beyond the band, squared. The head alone learns from features that are
computed once.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, relu

from studio.errors import InvalidOption, ModelUnavailable
from studio.models.catalogue import ASSETS
from studio.models.examiner import RESOLUTION
from studio.models.loading import pick_device
from studio.rewards import reward_info
from studio.rewards.blip import FACTS, RELEASED_FACTS, BlipReward, RewardFacts, from_released, load_folder, pixels_of, save_folder, tokens_of
from studio.rewards.pixels import CLIP_MEAN, CLIP_STD, normalised
from studio.rewards.scorers.blip import RELEASED_FILE, released_tokenizer
from studio.rewards.weights import file_of, read_weights
from studio.runs.trainers.reward import TOYBOX, RewardOptions
from trainers.captions import draw_scenes, toybox_scenes
from trainers.loop import Losses, StepLog, Task, run_loop
from trainers.oracle import ranked_world
from trainers.preference import accuracy_of, spread, verdict
from trainers.program import run_program
from trainers.ranked import Pair, Ranked, human_ceiling, load_ranked

__all__ = ["RewardOptions", "pair_loss", "train"]

CHUNK = 64
SHEET_PROMPTS, SHEET_SIDE = 6, 64
TOKENIZER = "toybox-clip"
MAX_TOKENS = 32


# --- the networks --------------------------------------------------------------------------------------------

def started(options: RewardOptions) -> tuple[BlipReward, Any, RewardFacts]:
    """(network, tokenizer, facts) of what the run goes on from, float32 on the CPU. Raises UnknownName, ModelUnavailable."""
    if not options.start:
        return fresh(options)
    source = reward_info(options.start).source
    place = str(ASSETS / source) if source.startswith("models/") else source
    if (Path(place) / FACTS).is_file():
        network, tokenizer, facts = load_folder(Path(place), torch.device("cpu"), torch.float32)
        return without_dropout(network), tokenizer, facts
    return from_released(read_weights(file_of(place, RELEASED_FILE))), released_tokenizer(place), RELEASED_FACTS


def fresh(options: RewardOptions) -> tuple[BlipReward, Any, RewardFacts]:
    """A small network, its picture tower that of a CLIP as far as the two are alike."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.clip or ASSETS / "models" / TOKENIZER)
    # The usual deviation of 0.02 is that of a thousand features; in a small network with it [CLS] says the same whatever it reads.
    shared = {
        "hidden_size": options.width, "intermediate_size": 4 * options.width, "num_attention_heads": options.width // 32,
        "initializer_range": 0.7 * options.width**-0.5,
    }
    sizes = {"num_hidden_layers": options.vision_layers, "image_size": options.resolution, "patch_size": options.patch, "layer_norm_eps": 1e-6}
    vision = {**shared, **activation_of(options.clip), **sizes}
    # BERT's special tokens are other words here; one that stands for padding would never learn.
    none = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id"))
    text = {**shared, **none, "num_hidden_layers": options.text_layers, "vocab_size": len(tokenizer), "max_position_embeddings": MAX_TOKENS}
    network = BlipReward(vision, text)
    for layer in without_dropout(network).head:
        if isinstance(layer, nn.Linear):
            # ImageReward's own first weights make its output vanish: with five such layers nothing is learned for hundreds of steps.
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    with torch.no_grad():
        # All rewards begin close together: before anything is known, nothing is better.
        network.head[-1].weight.mul_(0.1)
    if options.clip:
        take_towers(network, options.clip)
    return network, tokenizer, RewardFacts(side=options.resolution, max_tokens=MAX_TOKENS)


def without_dropout(network: BlipReward) -> BlipReward:
    """The network with a head that drops nothing: what all pictures have in common is most of its features, and dropping some drowns what differs."""
    for layer in network.head:
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return network


def activation_of(clip: str) -> dict[str, str]:
    """That of the CLIP whose picture tower is taken."""
    from transformers import CLIPConfig

    return {"hidden_act": CLIPConfig.from_pretrained(clip).vision_config.hidden_act} if clip else {}


def take_towers(network: BlipReward, clip: str) -> None:
    """Begin with a CLIP's picture tower and words. Raises ModelUnavailable where the sizes differ."""
    from transformers import CLIPImageProcessor, CLIPModel

    theirs, processor = CLIPModel.from_pretrained(clip).eval(), CLIPImageProcessor.from_pretrained(clip)
    weights, own, colours = theirs.state_dict(), network.state_dict(), (processor.image_mean, processor.image_std)
    try:
        for name, tensor in {**clip_weights(weights, len(network.vision_model.encoder.layers)), **embeddings_of(theirs, colours)}.items():
            own[name].copy_(tensor.reshape(own[name].shape))
    except (KeyError, RuntimeError) as error:
        raise ModelUnavailable(f"The towers of {clip} do not fit: width, patch, resolution and vision_layers must be those of the CLIP.") from error


@torch.no_grad()
def embeddings_of(clip: Any, colours: tuple[Sequence[float], Sequence[float]]) -> dict[str, Tensor]:
    """The embeddings of CLIP's picture tower, with what BLIP has not folded in: its own colours, and its norm before the blocks.

    norm(x) = w (x - mean) / deviation + b, with the deviation of usual pictures for that of each: a scale and a shift.
    """
    tower = clip.vision_model
    pictures = draw_scenes(toybox_scenes(0, 16), tower.config.image_size).float() / 127.5 - 1
    deviation = tower.embeddings(normalised(pictures, *colours)).std(dim=-1).mean()
    scale, shift = tower.pre_layrnorm.weight / deviation, tower.pre_layrnorm.bias
    place, patch = "vision_model.embeddings", tower.embeddings.patch_embedding.weight * scale[:, None, None, None]
    (mean, std), (own_mean, own_std) = (tuple(map(torch.tensor, pair)) for pair in (colours, (CLIP_MEAN, CLIP_STD)))
    # Places are added to whatever stands there, so the shift goes with them.
    places = tower.embeddings.position_embedding.weight * scale + shift
    # What stands first is the same of every picture, so its norm is known.
    first = tower.pre_layrnorm(tower.embeddings.class_embedding + tower.embeddings.position_embedding.weight[0])
    return {
        f"{place}.class_embedding": first - places[0],
        f"{place}.position_embedding": places,
        f"{place}.patch_embedding.weight": patch * (own_std / std)[None, :, None, None],
        f"{place}.patch_embedding.bias": (patch.sum((2, 3)) * ((own_mean - mean) / std)).sum(1),
    }


def clip_weights(weights: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """The weights of CLIPModel's blocks, and its words, under BLIP's names."""
    own = {"text_encoder.embeddings.word_embeddings.weight": weights["text_model.embeddings.token_embedding.weight"]}
    for kind in ("weight", "bias"):
        own[f"vision_model.post_layernorm.{kind}"] = weights[f"vision_model.post_layernorm.{kind}"]
    for i in range(layers):
        layer = f"vision_model.encoder.layers.{i}"
        for kind in ("weight", "bias"):
            own[f"{layer}.self_attn.qkv.{kind}"] = torch.cat([weights[f"{layer}.self_attn.{part}_proj.{kind}"] for part in "qkv"])
            own[f"{layer}.self_attn.projection.{kind}"] = weights[f"{layer}.self_attn.out_proj.{kind}"]
            own |= {f"{layer}.{name}.{kind}": weights[f"{layer}.{name}.{kind}"] for name in ("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2")}
    return own


def data_of(options: RewardOptions, side: int) -> Ranked:
    """What the run learns from, brought to `side` pixels. Raises InvalidOption, and as imports do."""
    if options.data == TOYBOX:
        if side != RESOLUTION:
            raise InvalidOption(f"The rankings of the toy world are of {RESOLUTION} x {RESOLUTION} pictures, but the network takes {side}.")
        return ranked_world(options.toybox_tasks, options.seed, options.held_out, options.toybox_model)
    return load_ranked(
        options.data, options.format, options.collection, side, limit=options.data_limit, held_out=options.held_out, seed=options.seed,
    )


def freeze(network: BlipReward, rate: float) -> None:
    """Keep the first `rate` of the text and picture layers as they are, and what comes before them."""
    if not rate:
        return
    for tower in (network.vision_model, network.text_encoder):
        tower.embeddings.requires_grad_(False)
        layers: Sequence[nn.Module] = tower.encoder.layers if hasattr(tower.encoder, "layers") else tower.encoder.layer
        for layer in layers[: int(rate * len(layers))]:
            layer.requires_grad_(False)


# --- the loss ------------------------------------------------------------------------------------------------

def pair_loss(better: Tensor, worse: Tensor, tie: Tensor, band: float) -> Tensor:
    """(B,) the loss of each pair. better, worse: (B,) rewards; tie: (B,) bool."""
    difference = better - worse
    return torch.where(tie, relu(difference.abs() - band) ** 2, -logsigmoid(difference))


def grouped(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """The pairs of each ranking together."""
    found: dict[tuple[int, str, int], list[Pair]] = {}
    for pair in pairs:
        found.setdefault((pair.task, pair.annotator, pair.repeat), []).append(pair)
    return list(found.values())


class RewardTask(Task):
    """Pairs, and the network that learns from them."""

    def __init__(self, options: RewardOptions):
        self.options = options
        torch.manual_seed(options.seed)
        self.whole, self.tokenizer, self.facts = started(options)
        self.data = data_of(options, self.facts.side)
        self.pairs = [pair for pair in self.data.train if options.tie_band or not pair.tie]
        self.judged = [pair for pair in self.data.held_out if not pair.tie]
        self.groups = grouped(self.pairs)
        self.size = len(self.groups)
        self.ids, self.mask = tokens_of(self.tokenizer, self.data.prompts, self.facts.max_tokens)
        self.head_alone = options.learns == "head"
        if self.head_alone:
            self.whole.requires_grad_(False)
            self.whole.head.requires_grad_(True)
        freeze(self.whole, options.fix_rate)
        self.features = features_of(self.whole, self) if self.head_alone else None
        self.network: nn.Module = self.whole.head if self.head_alone else self.whole
        self.last: dict[str, float] = {}

    def losses(self, network: Any, indices: Tensor, generator: torch.Generator, device: torch.device) -> Losses:
        groups = [self.groups[int(i)] for i in indices]
        items = sorted({item for group in groups for pair in group for item in (pair.better, pair.worse)})
        place = {item: at for at, item in enumerate(items)}
        # Each picture is seen once, in however many pairs it stands.
        reward = self.rewards(network, torch.tensor(items), device)
        pairs = [pair for group in groups for pair in group]
        better, worse = (reward[[place[getattr(pair, side)] for pair in pairs]] for side in ("better", "worse"))
        tie = torch.tensor([pair.tie for pair in pairs], device=device)
        loss = pair_loss(better, worse, tie, self.options.tie_band)
        right = ((better > worse) & ~tie).sum() / (~tie).sum().clamp(min=1)
        each = torch.stack([part.mean() for part in loss.split([len(group) for group in groups])])
        return Losses(descend=loss.mean(), each=each, extra={"right": right})

    def rewards(self, network: Any, items: Tensor, device: torch.device) -> Tensor:
        """(B,) raw rewards of items."""
        if self.features is not None:
            return network(self.features[items].to(device))[:, 0].float()
        pixels = pixels_of(self.data.batch(items).to(device), self.facts.side)
        return network(pixels, self.ids[items].to(device), self.mask[items].to(device)).float()

    @torch.no_grad()
    def all_rewards(self, network: Any, items: Sequence[int]) -> np.ndarray:
        """(N,) raw rewards, in chunks; the network as it is lent: in eval mode."""
        device = next(network.parameters()).device
        parts = [self.rewards(network, chunk, device).cpu() for chunk in torch.tensor(list(items)).split(CHUNK)]
        return torch.cat(parts).numpy().astype(np.float64) if parts else np.zeros(0)

    def judge(self, network: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(rewards of the better, of the worse, prompt of each) over the held-out strict pairs."""
        items = sorted({item for pair in self.judged for item in (pair.better, pair.worse)})
        reward = dict(zip(items, self.all_rewards(network, items) if items else ()))
        better, worse = (np.array([reward[getattr(pair, side)] for pair in self.judged]) for side in ("better", "worse"))
        return better, worse, np.array([self.data.prompts[pair.better] for pair in self.judged])

    def sheet(self, network: Any) -> Any:
        """Held-out prompts, one a row, their pictures from the highest reward to the lowest; the accuracy is measured with it."""
        accuracy = accuracy_of(*self.judge(network)[:2])
        self.last = {} if accuracy is None else {"accuracy": accuracy}
        return ordered_sheet(self.data, self.judged or self.pairs, lambda items: self.all_rewards(network, items))

    def measured(self) -> dict[str, float]:
        return self.last

    def save(self, network: Any, path: Path) -> None:
        train = sorted({item for pair in self.data.train for item in (pair.better, pair.worse)})
        mean, std = spread(self.all_rewards(network, train))
        facts = RewardFacts(side=self.facts.side, max_tokens=self.facts.max_tokens, mean=mean, std=std, measured=self.figures(network))
        save_folder(self.whole, self.tokenizer, facts, path)

    def figures(self, network: Any) -> dict[str, Any]:
        """What is measured of the result: its accuracy with all that belongs to it, and what people reach on the same pairs."""
        ceiling = human_ceiling(self.data.held_out)
        return {
            **verdict(*self.judge(network)), "human": ceiling.accuracy, "human_pairs": ceiling.pairs, "rankings": self.data.rankings,
            "train_pairs": sum(not pair.tie for pair in self.data.train), "learns": self.options.learns,
        }


@torch.no_grad()
def features_of(network: BlipReward, task: RewardTask) -> Tensor:
    """(N, D) float32 of every item, on the CPU: what the head will see."""
    device = pick_device()
    network.to(device).eval()
    parts = []
    for items in torch.arange(len(task.data.prompts)).split(CHUNK):
        states = network.see(pixels_of(task.data.batch(items).to(device), task.facts.side))
        parts.append(network.features(states, task.ids[items].to(device), task.mask[items].to(device)).float().cpu())
    network.train()
    return torch.cat(parts)


def ordered_sheet(data: Ranked, pairs: Sequence[Pair], rewards: Any) -> Any:
    """The pictures of a few tasks, one task a row, the best first."""
    from PIL import Image

    from studio.media.images import to_image

    tasks: dict[int, list[int]] = {}
    for pair in pairs:
        own = tasks.setdefault(pair.task, []) if pair.task in tasks or len(tasks) < SHEET_PROMPTS else []
        own += [item for item in (pair.better, pair.worse) if item not in own]
    columns = max(map(len, tasks.values()))
    sheet = Image.new("RGB", (columns * (SHEET_SIDE + 2), len(tasks) * (SHEET_SIDE + 2)), "white")
    for row, items in enumerate(tasks.values()):
        order = np.argsort(-rewards(items), kind="stable")
        for column, place in enumerate(order):
            picture = to_image(data.pixels[items[place]].movedim(0, -1).numpy()).resize((SHEET_SIDE, SHEET_SIDE))
            sheet.paste(picture, (column * (SHEET_SIDE + 2), row * (SHEET_SIDE + 2)))
    return sheet


def train(options: RewardOptions, *, progress: bool = True) -> Iterator[StepLog]:
    """Run (or resume) a training, one StepLog a step: see trainers.loop.run_loop. Raises InvalidOption."""
    if options.learns == "head" and options.fix_rate:
        raise InvalidOption("fix_rate is of the towers, which stay as they are anyway when the head alone learns; set it to 0.")
    yield from run_loop(RewardTask(options), progress=progress)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    run_program(RewardOptions, train, argv, description="Train a reward on rankings.")


if __name__ == "__main__":
    main()
