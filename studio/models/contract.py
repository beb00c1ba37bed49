"""What every diffusion model of the studio can do, whatever its family. Nothing outside a family's own file asks which it is.

    x_t -> predict(x_t, t, conditioning) -> what the network says        x0 -> decode -> picture
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from studio.media.previews import RgbMap
    from studio.models.attention import AttentionRecorder
    from studio.models.beginning import Beginning
    from studio.models.catalogue import ModelInfo
    from studio.models.conditioning import Conditioning, Unit
    from studio.models.prompts import PromptEncoder
    from studio.options import SampleOptions
    from studio.process.paths import NoisePath

__all__ = ["DiffusionModel"]


@runtime_checkable
class DiffusionModel(Protocol):
    """A loaded model of any family.

    info: its menu entry, with its real sizes. path: the noise path that it was trained on. parts: its networks by the
    names of their folders, in the order in which a run meets them; memory, anatomy and offload go through them.
    network: the one of them that predicts. prompts: reads words; None where it reads none. factor: pixels a state's side
    (1 of a pixel model). rgb_map: how its latents look; None where states are pictures. scheduler_config: as its folder
    has it. takes_control: whether ControlNets can add to its states. takes: the options of pictures that it is told, of
    studio.models.beginning.TOLD.
    """

    name: str
    info: "ModelInfo"
    path: "NoisePath"
    prompts: "PromptEncoder | None"
    factor: int
    scheduler_config: Mapping[str, Any]
    takes_control: bool
    takes: tuple[str, ...]

    @property
    def parts(self) -> Mapping[str, Any]:
        """The networks by name."""

    @property
    def network(self) -> Any:
        """The network that predicts."""

    @property
    def device(self) -> "torch.device":
        """Where the work is done."""

    @property
    def rgb_map(self) -> "RgbMap | None":
        """The linear map from latents to small pictures."""

    def state_shape(self, options: "SampleOptions") -> tuple[int, int, int]:
        """(C, h, w) of one state. Raises InvalidOption with the nearest size that can be made."""

    def condition(self, options: "SampleOptions") -> "tuple[Conditioning, Conditioning | None]":
        """What the network is told for one picture, and what guidance leads away from (None: it cannot be guided).

        Raises InvalidOption or UnknownName for what this family does not know, in a sentence.
        """

    def begin(self, options: "SampleOptions", generators: "Sequence[torch.Generator]") -> "Beginning":
        """What a run has before its first step, drawn from each picture's generator. Raises what `condition` raises, and InvalidOption
        where a picture that the model is told is missing or says nothing."""

    def predict(self, x_t: "Tensor", t: float, conditioning: "Conditioning") -> "Tensor":
        """What the network says at x_t (B, C, h, w) of the conditioning of B pictures: (B, C or 2C, h, w) float32."""

    def make_ready(self, options: "SampleOptions", control: "tuple[Unit, ...]" = ()) -> None:
        """Do what makes runs of these options quicker from now on; control: with ControlNets. Raises what `condition` raises."""

    def encode(self, pictures: "Tensor", generators: "Sequence[torch.Generator]") -> "Tensor":
        """Clean states (B, C, h, w) of pictures (B, 3 or C, H, W) in [-1, 1]; chance comes from each picture's generator."""

    def decode(self, x0: "Tensor") -> "Tensor":
        """States -> pictures (B, 3 or C, H, W) float32, about [-1, 1]. Gradients flow where they are wanted."""

    def spare_memory(self) -> bool:
        """Work in smaller pieces from now on, where this family can; whether that is a change."""

    def decoded_at_once(self, height: int, width: int) -> tuple[int, int]:
        """Of states of that size, the height and width that are decoded together: all, or a tile."""

    def word_attention(self, options: "SampleOptions") -> "AttentionRecorder":
        """What records where each word is looked at. Raises InvalidOption where the family has no words or no such maps."""

    def facts(self) -> dict[str, Any]:
        """What a run file must know of the model to be read without it: JSON-ready."""
