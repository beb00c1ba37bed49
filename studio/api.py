"""The public face of the backend: what tabs, scripts and tests call."""

import dataclasses
import os
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.conditions import AS_TRAINED, NOTHING_ADDED, Added, TextsTold
from studio.errors import InvalidOption, StudioError, UnknownName
from studio.kept import PUBLIC_LIMITS, Kept, own_limits
from studio.models.catalogue import COMPANIONS, MODELS, ModelInfo
from studio.models.controlnet_menu import CONTROLNETS, ControlNetInfo
from studio.models.device import Device
from studio.models.downloads import LoadProgress
from studio.models.wanted import Wanted, added_to, name_of
from studio.options import SampleOptions
from studio.sampling.events import Finished, StepDone
from studio.sampling.streams import STREAMS

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from studio.models import DiffusionModel
    from studio.models.anatomy import Part, RoundTrip
    from studio.models.controlnets import ControlNet
    from studio.models.device import Stop
    from studio.models.downloads import Fetch
    from studio.models.memory import Resident, Residents
    from studio.models.patches import Patches
    from studio.models.prompts import PromptEncoder, Reading, Tokens
    from studio.models.room import Need
    from studio.models.shelf import ShelfFile
    from studio.rankings import Rankings
    from studio.rankings.background import Makings
    from studio.rankings.making import TaskMade, TaskOptions
    from studio.rewards import Reward, RewardInfo
    from studio.rewards.along import Along, BestSoFar
    from studio.rewards.explaining import Explanation, WordScores
    from studio.rewards.scoring import ScoresSoFar
    from studio.runs import Runs, RunView
    from studio.sampling.refining import GetModel
    from studio.sampling.trajectory import Trajectory

__all__ = ["Studio"]


class Studio:
    """The studio without a window. Making one does no work; models are loaded when they are first needed.

    One instance serves many threads: loading is locked; whoever shares the device with others takes turns in `device`.

    Args:
        public: serve strangers: only the embedded models, no folders and no Hub ids, no training.
        runs_root: the folder of training runs; by default DIFFUSION_STUDIO_RUNS, or "runs".
        folders: further folders that the options of trainings may lead to: pictures, models.
        threads: for networks on the processor; by default as torch decides.
        rankings_root: the folder of rankings; by default DIFFUSION_STUDIO_RANKINGS, or "rankings". DATABASE_URL may name a PostgreSQL database.
    """

    def __init__(
        self, *, public: bool = False, runs_root: str | Path | None = None, folders: "Sequence[str | Path]" = (), rankings_root: str | Path | None = None,
        threads: int | None = None,
    ) -> None:
        from studio.runs import Runs
        from studio.runs.following import Follower

        self.public = public
        self._runs = Runs(runs_root or os.environ.get("DIFFUSION_STUDIO_RUNS", "runs"), folders)
        self.follower = Follower()
        # The runs that visitors have made or opened last.
        self.kept = Kept(PUBLIC_LIMITS if public else own_limits())
        self.device = Device()
        self.threads = threads
        # How models are fetched; a test puts another one here.
        self.fetch: Fetch | None = None
        self._residents: Residents | None = None
        self._nets: Residents | None = None
        self._lock = threading.Lock()
        self._rankings_root = rankings_root
        self._rankings: Rankings | None = None
        self._makings: Makings | None = None

    @property
    def models(self) -> dict[str, ModelInfo]:
        """The menu of models by name; training runs that have finished come last, under the paths of their results."""
        from studio.runs.results import results

        if self.public:
            return {name: info for name, info in MODELS.items() if info.embedded}
        return {**MODELS, **results(self._runs.root)}

    @property
    def controlnets(self) -> dict[str, ControlNetInfo]:
        """The menu of ControlNets by name; training runs that have finished come first, under the paths of their results."""
        from studio.runs.results import controlnet_results

        if self.public:
            return {name: info for name, info in CONTROLNETS.items() if info.embedded}
        return {**controlnet_results(self._runs.root), **CONTROLNETS}

    @property
    def runs(self) -> "Runs":
        """The training runs. Raises InvalidOption where training is off."""
        if self.public:
            raise InvalidOption("Training is off on this public studio; start the studio on your own machine to train.")
        return self._runs

    @property
    def rankings(self) -> "Rankings":
        """The rankings, opened when they are first needed. Raises NotWritable, StudioBusy, DamagedFile, InvalidOption."""
        from studio.rankings import open_rankings, rankings_folder
        from studio.rankings.hub import keep_on_hub

        with self._lock:
            if self._rankings is None:
                self._rankings = open_rankings(self._rankings_root or rankings_folder(), os.environ.get("DATABASE_URL", ""))
                keep_on_hub(self._rankings)
            return self._rankings

    @property
    def rewards(self) -> "dict[str, RewardInfo]":
        """The menu of scorers by name; those that were trained here come first, the newest first, under the paths of their results."""
        from studio.rewards import REWARDS, trained_rewards

        if self.public:
            return {name: info for name, info in REWARDS.items() if info.embedded}
        return {**trained_rewards(self._runs.root), **REWARDS}

    def reward(self, name: str) -> "Reward":
        """A loaded scorer: see studio.rewards.load_reward. Raises UnknownName, ModelUnavailable."""
        from studio.rewards import load_reward

        if self.public and name not in self.rewards:
            raise UnknownName.of("scorer on this public studio", name, self.rewards)
        self._memory  # noqa: B018  # its first use says how many threads torch may have
        return load_reward(name)

    def score(self, pictures: "Sequence[Image.Image]", prompts: "Sequence[str]", rewards: "Sequence[str]") -> "Iterator[ScoresSoFar]":
        """Score pictures by one or several scorers, batch by batch: see studio.rewards.scoring.score_pictures.

        Raises InvalidOption, UnknownName, ModelUnavailable.
        """
        from studio.rewards.scoring import require_pictures, score_pictures

        require_pictures(pictures, prompts, rewards)
        with self._out_of_memory_said("scoring"):
            yield from score_pictures([self.reward(name) for name in dict.fromkeys(rewards)], pictures, prompts)

    def rewards_along(self, trajectory: "Trajectory", rewards: "Sequence[str]") -> "Iterator[Along]":
        """The rewards of what the model believed, step by step: see studio.rewards.along.rewards_along."""
        from studio.rewards.along import rewards_along

        with self._out_of_memory_said("scoring"):
            yield from rewards_along([self.reward(name) for name in dict.fromkeys(rewards)], trajectory, self.decode)

    def best_of(self, options: SampleOptions, count: int, reward: str) -> "Iterator[BestSoFar | None]":
        """Draw `count` seeds and score each: see studio.rewards.along.best_of."""
        from studio.rewards.along import best_of

        yield from best_of(self.reward(reward), options, count, self.sample)

    def explain_score(self, picture: "Image.Image", prompt: str, reward: str) -> "Iterator[Explanation | float]":
        """Which pixels a score hangs on: see studio.rewards.explaining.explain."""
        from studio.rewards.explaining import explain

        with self._out_of_memory_said("scoring"):
            yield from explain(self.reward(reward), picture, prompt)

    def word_scores(self, picture: "Image.Image", prompt: str, reward: str, more: "Sequence[str]" = ()) -> "Iterator[WordScores | float]":
        """Which words a score hangs on: see studio.rewards.explaining.word_scores."""
        from studio.rewards.explaining import word_scores

        with self._out_of_memory_said("scoring"):
            yield from word_scores(self.reward(reward), picture, prompt, more)

    def train_reward(self, name: str, options: "Mapping[str, Any]", collection: str = "", file: "str | Path | None" = None) -> "RunView":
        """Train a reward on the rankings here, or on an exported file, as a run: see studio.runs.reward.start."""
        from studio.runs.reward import start

        return start(self.runs, None if file else self.rankings, name, options, collection=collection, file=file)

    def tune(
        self, name: str, options: "Mapping[str, Any]", source: str = "toybox", collection: str = "", file: "str | Path | None" = None,
    ) -> "RunView":
        """Tune a model by a reward or by rankings, as a run (ReFL and its relatives): see studio.runs.refl.start."""
        from studio.runs.refl import start

        runs = self.runs
        return start(runs, self.rankings if source == "ranked" else None, name, options, source=source, collection=collection, file=file)

    def estimate_tuning(self, options: "Mapping[str, Any]") -> Any:
        """Time and memory of such a run, by a timed look at base and scorers: see studio.runs.refl.estimate."""
        from studio.runs.refl import estimate

        return estimate(self.runs, options)

    def estimate_reward(self, options: "Mapping[str, Any]", collection: str = "", file: "str | Path | None" = None) -> Any:
        """Time and memory of such a run, by a timed step of it: see studio.runs.reward.estimate."""
        from studio.runs.reward import estimate

        return estimate(self.runs, None if file else self.rankings, options, collection=collection, file=file)

    def make_tasks(self, options: "TaskOptions") -> "Generator[TaskMade, None, None]":
        """Draw pictures and put them up for ranking: see studio.rankings.making.make_tasks."""
        from studio.rankings.making import make_tasks

        return make_tasks(self.rankings, self.sample, options)

    @property
    def makings(self) -> "Makings":
        """The making of tasks in the background: see studio.rankings.background."""
        from studio.rankings.background import Makings

        with self._lock:
            if self._makings is None:
                self._makings = Makings(self.make_tasks, lambda: self.rankings, self.device)
            return self._makings

    def train_subject(self, name: str, pictures: "Sequence[str | Path]", options: "Mapping[str, Any]") -> "RunView":
        """Teach a subject from files of pictures, as a run (DreamBooth): see studio.runs.dreambooth.start."""
        from studio.runs.dreambooth import start

        return start(self.runs, name, pictures, options)

    def estimate_subject(self, options: "Mapping[str, Any]") -> Any:
        """Time and memory of such a run, by a timed look at the base model: see studio.runs.dreambooth.estimate."""
        from studio.runs.dreambooth import estimate

        return estimate(self.runs, options)

    def estimate_run(self, trainer: str, options: "Mapping[str, Any]") -> Any:
        """Time and memory of a run of one of studio.runs.costs.ESTIMATED: see there."""
        from studio.runs.costs import cost_of

        return cost_of(self.runs, trainer, options)

    def delete_run(self, name: str) -> None:
        """Remove a run and all that it made; a model of it that is loaded is let go."""
        path = self.runs.read(name).path
        self.runs.delete(name)
        if any(Path(resident.name).is_relative_to(path) for resident in self.residents()):
            self.free()

    def model(self, name: str, added: Added = NOTHING_ADDED) -> "DiffusionModel":
        """The loaded model with what is put into it; others give way by least-recent use. Raises UnknownName, ModelUnavailable, InvalidOption."""
        self._check_public(name)
        return self._memory.get(self._wanted(name, added))

    def _wanted(self, name: str, added: Added) -> str | Wanted:
        """By what a model with what is put into it is held in memory. Raises InvalidOption."""
        if not added.changed:
            return name
        if self.public:
            raise InvalidOption("LoRAs, embeddings and other VAEs are off on this public studio; start the studio on your own machine to use yours.")
        from studio.models.shelf import find_file

        what = {**{lora.file: "LoRA" for lora in added.loras}, **dict.fromkeys(added.embeddings, "embedding"), added.vae: "VAE"}
        found = {file: find_file(file, self.runs.folders, what[file], or_folder=file == added.vae) for file in added.files}
        added = added.renamed(found)
        stamps = tuple(Path(file).stat().st_mtime for file in added.files)
        return Wanted(name=name, added=added, stamps=stamps) if added.changed else name

    def shelf(self, kind: str) -> "list[ShelfFile]":
        """The files of a kind ("model", "lora", "embedding", "vae") in the folders that the studio may use; none on a public studio."""
        from studio.models.shelf import shelf

        return [] if self.public else shelf(self.runs.folders, kind)

    def _beside(self, model: str | Wanted) -> "GetModel":
        """What gives a second model, for which the first must not give way."""
        def get(name: str) -> "DiffusionModel":
            self._check_public(name)
            return self._memory.get(name, beside=model)

        return get

    def controlnet(self, name: str) -> "ControlNet":
        """The loaded ControlNet; others give way by least-recent use. Raises UnknownName, ModelUnavailable."""
        self._check_public_net(name)
        return self._loaded_nets.get(name)

    def load(self, name: str) -> "Iterator[LoadProgress]":
        """Load a model, telling how far its download is; one that is here already is loaded without a word.

        Closing the iterator ends the download. Raises UnknownName, ModelUnavailable.
        """
        yield from self.download(name)
        self.model(name)

    def download(self, name: str) -> "Iterator[LoadProgress]":
        """Fetch what a model is loaded from, where it is not here. Raises UnknownName, ModelUnavailable."""
        from studio.models.downloads import download
        from studio.models.loading import is_hub_id, resolve

        self._check_public(name)
        if name not in [resident.name for resident in self.residents()] and is_hub_id(name):
            yield from download(resolve(name), self.fetch)

    def make_ready(self, options: SampleOptions) -> None:
        """Load the model of the options and do what makes runs of such options quick.

        Raises UnknownName, ModelUnavailable, InvalidOption, TooLarge.
        """
        from studio.sampling.controlled import make_ready

        self.require_room(options)
        make_ready(self.model(options.model, options.added), options, self.controlnet)

    def residents(self) -> "list[Resident]":
        """What is loaded: name, GiB on the device, when it was last used; used last first."""
        return [resident for held in (self._residents, self._nets) if held for resident in held.list()]

    def memory_gib(self) -> float:
        """GiB that models may take on the device in all."""
        from studio.models.loading import pick_device
        from studio.models.memory import budget_gib

        return budget_gib(pick_device())

    def free(self) -> None:
        """Let go of every model."""
        for held in (self._residents, self._nets):
            if held:
                held.clear()

    @property
    def _memory(self) -> "Residents":
        from studio.models import load_model
        from studio.models.loading import estimated_gib, pick_device
        from studio.models.memory import Residents, measured_gib

        with self._lock:
            if self._residents is None:
                self._set_threads()
                self._residents = Residents(
                    load=lambda wanted, offload: load_model(name_of(wanted), offload=offload, added=added_to(wanted)),
                    estimate=lambda wanted: estimated_gib(name_of(wanted)), measure=measured_gib,
                    budget=self.memory_gib, can_offload=lambda: pick_device().type == "cuda",
                )
            return self._residents

    @property
    def _loaded_nets(self) -> "Residents":
        """ControlNets lie beside the models, in what these leave of the memory."""
        from studio.models.controlnets import estimated_control_gib, load_controlnet
        from studio.models.memory import Residents, measured_gib

        with self._lock:
            if self._nets is None:
                self._nets = Residents(
                    load=lambda name, offload: load_controlnet(name), estimate=estimated_control_gib, measure=measured_gib, budget=self._room_for_nets_gib,
                    can_offload=lambda: False,
                )
            return self._nets

    def _room_for_nets_gib(self) -> float:
        return self.memory_gib() - sum(resident.memory_gib for resident in (self._residents.list() if self._residents else ()))

    def _set_threads(self) -> None:
        """Before the first model is loaded; threads that begin later have it from there."""
        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)

    def _check_public(self, name: str) -> None:
        if self.public and name not in self.models:
            raise UnknownName.of("model on this public studio", name, self.models)

    def _check_public_net(self, name: str) -> None:
        if self.public and name not in self.controlnets:
            raise UnknownName.of("ControlNet on this public studio", name, self.controlnets)

    def describe(self, name: str) -> ModelInfo:
        """The menu entry of a model; one that is not in the menu (a folder, a Hub id) is loaded to find out."""
        return self.models[name] if name in self.models else self.model(name).info

    def takes(self, name: str) -> tuple[str, ...]:
        """What of studio.conditions a model can be told, groups or options of them by dotted names; nothing is loaded for it.

        () also of a model that is not known yet: what it takes is known once it is loaded.
        """
        from studio.models.families import FAMILIES, family_in

        info = self.models.get(name)
        if info is None and name in [resident.name for resident in self.residents()]:
            info = self.model(name).info
        family = info.family if info else None
        if family is None and not self.public:
            with suppress(StudioError, OSError, ValueError):
                family = family_in(Path(name))
        taken = FAMILIES[family].takes if family else ()
        # Files of one's own are for one's own studio.
        return tuple(one for one in taken if not self.public or one.partition(".")[0] != "added")

    def sample(self, options: SampleOptions, stop: "Stop | None" = None) -> Iterator[StepDone | Finished]:
        """Draw pictures: see studio.sampling.loop.sample. Raises TooLarge before the first step for what does not fit."""
        from studio.sampling.loop import sample

        self._check_companion(options)
        with self._out_of_memory_said():
            self.require_room(options)
            beside = self._beside(self._wanted(options.model, options.added))
            yield from sample(self.model(options.model, options.added), options, stop, self.controlnet, beside)

    def resume(self, trajectory: "Trajectory", index: int, stop: "Stop | None" = None, **changes: Any) -> Iterator[StepDone | Finished]:
        """Fork a run at a step: see studio.sampling.loop.resume."""
        from studio.sampling.loop import resume

        options = dataclasses.replace(trajectory.options, **changes)
        self._check_companion(options)
        with self._out_of_memory_said():
            self.require_room(options)
            beside = self._beside(self._wanted(options.model, options.added))
            yield from resume(self.model(options.model, options.added), trajectory, index, stop, self.controlnet, beside, **changes)

    def require_room(self, *runs: SampleOptions, keep: bool = True) -> None:
        """Refuse, in numbers, runs that do not fit into the memory that is free, or are more than a public studio does.

        keep: all of them will be held at the same time. Loads their models, once it is known that there is some chance.
        Raises TooLarge, and what the runs would raise for options that do not fit their model.
        """
        from studio.sampling.estimate import need_of_runs

        for options in runs:
            self._check_asked(options)
        for name, added in dict.fromkeys((options.model, options.added) for options in runs):
            asked = [options for options in runs if (options.model, options.added) == (name, added)]
            self._require(self._wanted(name, added), partial(need_of_runs, runs=asked, keep=keep))

    def _check_asked(self, options: SampleOptions) -> None:
        """What can be known without the model. Raises TooLarge, UnknownName."""
        from studio.sampling.estimate import check_least, check_public

        self._check_public(options.model)
        if info := self.models.get(options.model):
            check_least(info, options)
            if self.public:
                check_public(info, options)

    def _require(self, wanted: str | Wanted, need: "Callable[..., Need]") -> None:
        from studio.models.room import require_room

        model = self._memory.get(wanted)
        offloaded = self._memory.offloads(wanted)
        require_room(model, lambda quick: need(model, quick=quick), offloaded=offloaded, let_others_go=lambda: self._memory.only(wanted))

    def _out_of_memory_said(self, what: str = "sampling") -> "AbstractContextManager[None]":
        from studio.models.memory import out_of_memory_said

        return out_of_memory_said(self._memory, what)

    def noise_curve(self, options: SampleOptions) -> dict[str, list[float]]:
        """The noise path of the model that the options name, against t: "t", "log_snr", "signal", "noise", T numbers each.

        Raises TooLarge for options that no run can have, before the model is loaded.
        """
        self._check_asked(options)
        return self.model(options.model, options.added).path.curve()

    def tokens(self, model: str, prompt: str, added: Added = NOTHING_ADDED) -> "Tokens":
        """The prompt as the model's tokenizer sees it, and what was cut off. Raises InvalidOption for a model without text."""
        return self._prompts(model, added).tokens(prompt)

    def readings(self, model: str, prompt: str, texts: TextsTold = AS_TRAINED, added: Added = NOTHING_ADDED) -> "tuple[Reading, ...]":
        """What each text encoder makes of a prompt: its tokens, its states and its pooled vector. Raises InvalidOption for a model without text."""
        # An encoder that is lent layer by layer lies nowhere itself: the model says where the work is done.
        return self._prompts(model, added).readings(prompt, texts, self.model(model, added).device)

    def decode(self, trajectory: "Trajectory", stream: str, index: int) -> "list[Image.Image]":
        """One step of a stream by the real decoder, one picture a seed; the model is loaded if it is not. Noise is drawn as it is.

        Raises TooLarge.
        """
        import torch

        from studio.media.images import to_images
        from studio.sampling.estimate import check_public_work, need_of_decoding

        if not trajectory.latent or not STREAMS[stream].decodable:
            return to_images(trajectory.pictures(stream, index))
        num_images, _, height, width = trajectory.x_final.shape
        wanted = self._wanted(trajectory.options.model, trajectory.options.added)
        self._check_public(trajectory.options.model)
        model = self._memory.get(wanted)
        if self.public:
            # The run may be a stranger's file.
            check_public_work(model.info, width * model.factor, height * model.factor, num_images, 1)
        self._require(wanted, partial(need_of_decoding, num_images=num_images, height=height, width=width))
        with torch.inference_mode():
            return to_images(model.decode(trajectory.stream(stream)[index].to(model.device, torch.float32)))

    def decoded(self, trajectory: "Trajectory", stream: str) -> "Generator[tuple[int, int], None, Trajectory]":
        """A latent run as a run of pictures by the real decoder, told step by step: see studio.sampling.export.decoded_run."""
        from studio.sampling.export import decoded_run

        return decoded_run(trajectory, stream, self.decode)

    def anatomy(self, model: str, prompt: str = "") -> "list[Part]":
        """The model's parts with parameters, shapes and memory: see studio.models.anatomy.anatomy."""
        from studio.models.anatomy import anatomy

        return anatomy(self.model(model), prompt)

    def patches(self, model: str) -> "Patches | None":
        """How the model's transformer cuts its state into patches, and the vectors that stand for their places; None of a UNet."""
        from studio.models.patches import patches_of

        return patches_of(self.model(model))

    def vae_round_trip(self, model: str, picture: "Image.Image", perturb: float = 0.0, seed: int = 0) -> "RoundTrip":
        """A picture through the model's VAE and back, its latents perturbed if asked: see studio.models.anatomy.vae_round_trip."""
        from studio.models.anatomy import vae_round_trip

        return vae_round_trip(self.model(model), picture, perturb, seed)

    def preview_pictures(self, trajectory: "Trajectory", stream: str, indices: "Sequence[int] | None" = None) -> "Tensor":
        """Steps of a stream as pictures, (S, B, 3, h, w) or (S, B, C, H, W) of a pixel run, about [-1, 1]; no model is needed.

        Raises TooLarge.
        """
        from studio.machine import require_ram

        steps = len(trajectory.steps) if indices is None else len(indices)
        values = steps * len(trajectory.x_final) * max(3, trajectory.x_final.shape[1]) * trajectory.x_final.shape[-2:].numel()
        # Float32, and its input in it.
        require_ram(8 * values, f"A preview of {steps} steps", "take fewer steps at once")
        return trajectory.pictures(stream, slice(None) if indices is None else list(indices))

    def _check_companion(self, options: SampleOptions) -> None:
        if self.public and options.clip_model not in ("", *COMPANIONS):
            raise UnknownName.of("CLIP on this public studio", options.clip_model, COMPANIONS)
        if self.public and options.depth_model:
            raise InvalidOption("A public studio loads no depth estimator that a visitor names: leave depth_model empty.")

    def _prompts(self, name: str, added: Added = NOTHING_ADDED) -> "PromptEncoder":
        model = self.model(name, added)
        if model.prompts is None:
            raise InvalidOption(f"{model.info.label} reads no text (it is a pixel model, or one of classes); choose a text-to-image model.")
        return model.prompts

    def load_run(self, path: str | Path) -> "Trajectory":
        """Read a run file; no model is needed. Raises BadRunFile, and TooLarge for what a public studio would not draw."""
        from studio.sampling.trajectory import Trajectory

        run = Trajectory.load(path)
        if self.public:
            self._check_public_run(run)
        return run

    def _check_public_run(self, run: "Trajectory") -> None:
        """Whatever is shown, kept and decoded of a stranger's run costs no more than one that was made here."""
        from studio.sampling.estimate import check_public_work

        largest = max(self.models.values(), key=lambda info: info.width * info.height)
        height, width = run.x_final.shape[-2:] if run.final_pixels is None else run.final_pixels.shape[1:3]
        check_public_work(self.models.get(run.options.model, largest), width, height, len(run.x_final), len(run.steps))
