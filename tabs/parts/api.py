"""What the tabs ask of the studio, as types: studio.Studio gives all of it, the fakes of the tests each its part.

    SamplingApi     pictures from noise, and runs that were kept        Denoising, One step or many
    TextApi         and prompts, memory, single steps decoded           Text to image, Compare, Grid, Anatomy
    ControlApi      and ControlNets                                     ControlNet
    TrainingApi     and training runs                                   DreamBooth, Runs
    RankingApi      and rankings by hand                                Rank
    ScoringApi      and scorers of pictures                             Score
    TuningApi       and training runs, rankings and scorers together    ReFL
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from studio.conditions import AS_TRAINED, NOTHING_ADDED, Added, TextsTold
from studio.kept import Kept
from studio.models.catalogue import ModelInfo
from studio.models.controlnet_menu import ControlNetInfo
from studio.models.device import Device
from studio.models.downloads import LoadProgress
from studio.options import SampleOptions
from studio.runs import Runs, RunView
from studio.runs.following import Follower
from studio.sampling.events import Finished, StepDone

if TYPE_CHECKING:
    from PIL import Image

    from studio import Studio
    from studio.models.anatomy import Part, RoundTrip
    from studio.models.device import Stop
    from studio.models.memory import Resident
    from studio.models.patches import Patches
    from studio.models.prompts import Reading, Tokens
    from studio.models.shelf import ShelfFile
    from studio.rankings import Rankings
    from studio.rankings.background import Makings
    from studio.rewards import Reward, RewardInfo
    from studio.rewards.along import Along, BestSoFar
    from studio.rewards.explaining import Explanation, WordScores
    from studio.rewards.scoring import ScoresSoFar
    from studio.sampling.trajectory import Trajectory

__all__ = ["SamplingApi", "TextApi", "ControlApi", "TrainingApi", "ControlTrainingApi", "RankingApi", "ScoringApi", "TuningApi", "StudioApi"]


class SamplingApi(Protocol):
    """Models by name, runs of them, and what a visitor left: each as studio.Studio describes it."""

    @property
    def public(self) -> bool: ...
    @property
    def models(self) -> Mapping[str, ModelInfo]: ...
    @property
    def kept(self) -> Kept: ...
    @property
    def device(self) -> Device: ...
    def describe(self, name: str) -> ModelInfo: ...
    def takes(self, name: str) -> "tuple[str, ...]": ...
    def sample(self, options: SampleOptions, stop: "Stop | None" = None) -> Iterator[StepDone | Finished]: ...
    def shelf(self, kind: str) -> "Sequence[ShelfFile]": ...
    def require_room(self, *runs: SampleOptions, keep: bool = True) -> None: ...
    def noise_curve(self, options: SampleOptions) -> dict[str, list[float]]: ...
    def load_run(self, path: str | Path) -> "Trajectory": ...
    def make_ready(self, options: SampleOptions) -> None: ...
    def residents(self) -> "Sequence[Resident]": ...


class TextApi(SamplingApi, Protocol):
    """And what a prompt is to a model, what is in memory, and what the decoder makes of a step."""

    def download(self, name: str) -> Iterator[LoadProgress]: ...
    def memory_gib(self) -> float: ...
    def tokens(self, model: str, prompt: str, added: Added = NOTHING_ADDED) -> "Tokens": ...
    def readings(self, model: str, prompt: str, texts: TextsTold = AS_TRAINED, added: Added = NOTHING_ADDED) -> "tuple[Reading, ...]": ...
    def decode(self, trajectory: "Trajectory", stream: str, index: int) -> "list[Image.Image]": ...
    def decoded(self, trajectory: "Trajectory", stream: str) -> "Generator[tuple[int, int], None, Trajectory]": ...
    def anatomy(self, model: str, prompt: str = "") -> "list[Part]": ...
    def patches(self, model: str) -> "Patches | None": ...
    def vae_round_trip(self, model: str, picture: "Image.Image", perturb: float = 0.0, seed: int = 0) -> "RoundTrip": ...


class ControlApi(TextApi, Protocol):
    """And ControlNets by name."""

    @property
    def controlnets(self) -> Mapping[str, ControlNetInfo]: ...


class TrainingApi(SamplingApi, Protocol):
    """And training runs. On a public studio there are none."""

    @property
    def runs(self) -> Runs: ...
    @property
    def follower(self) -> Follower: ...
    def train_subject(self, name: str, pictures: "Sequence[str | Path]", options: Mapping[str, Any]) -> RunView: ...
    def estimate_subject(self, options: Mapping[str, Any]) -> Any: ...
    def estimate_run(self, trainer: str, options: Mapping[str, Any]) -> Any: ...
    def train_reward(self, name: str, options: Mapping[str, Any], collection: str = "", file: "str | Path | None" = None) -> RunView: ...
    def estimate_reward(self, options: Mapping[str, Any], collection: str = "", file: "str | Path | None" = None) -> Any: ...
    def tune(self, name: str, options: Mapping[str, Any], source: str = "toybox", collection: str = "", file: "str | Path | None" = None) -> RunView: ...
    def estimate_tuning(self, options: Mapping[str, Any]) -> Any: ...
    def delete_run(self, name: str) -> None: ...


class ControlTrainingApi(ControlApi, TrainingApi, Protocol):
    """And both: what is trained is used beside it."""


class RankingApi(SamplingApi, Protocol):
    """And rankings by hand."""

    @property
    def rankings(self) -> "Rankings": ...
    @property
    def makings(self) -> "Makings": ...


class ScoringApi(TextApi, Protocol):
    """And scorers of pictures."""

    @property
    def rewards(self) -> "Mapping[str, RewardInfo]": ...
    def reward(self, name: str) -> "Reward": ...
    def score(self, pictures: "Sequence[Image.Image]", prompts: Sequence[str], rewards: Sequence[str]) -> "Iterator[ScoresSoFar]": ...
    def rewards_along(self, trajectory: "Trajectory", rewards: Sequence[str]) -> "Iterator[Along]": ...
    def best_of(self, options: SampleOptions, count: int, reward: str) -> "Iterator[BestSoFar | None]": ...
    def explain_score(self, picture: "Image.Image", prompt: str, reward: str) -> "Iterator[Explanation | float]": ...
    def word_scores(self, picture: "Image.Image", prompt: str, reward: str, more: Sequence[str] = ()) -> "Iterator[WordScores | float]": ...


class TuningApi(TrainingApi, RankingApi, ScoringApi, Protocol):
    """And all three: what is ranked trains what scores, and that tunes what draws."""


class StudioApi(ControlTrainingApi, RankingApi, ScoringApi, Protocol):
    """All of it."""


if TYPE_CHECKING:
    def _is_fulfilled_by(studio: Studio) -> StudioApi:
        return studio
