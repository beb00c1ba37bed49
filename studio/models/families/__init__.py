"""One file a family of models. FAMILIES says which file reads which pipeline; nothing else knows one from the other."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any

__all__ = ["FAMILIES", "Family", "family_of_pipeline"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """label: in words. pipelines: the classes of diffusers whose folders it reads. module: its file here, with load(Source).

    text: whether it reads a prompt. takes: what of studio.conditions it can be told, groups or single options of them.
    """

    label: str
    pipelines: tuple[str, ...]
    module: str
    text: bool = False
    takes: tuple[str, ...] = ()

    def takes_condition(self, name: str) -> bool:
        """Whether it can be told an option of studio.conditions, by its dotted name, or something of a group."""
        return any(name == one or name.startswith(f"{one}.") or one.startswith(f"{name}.") for one in self.takes)

    def load(self, source: Any) -> Any:
        """The loaded model. Raises ModelUnavailable."""
        return import_module(f"{__name__}.{self.module}").load(source)


FAMILIES: Mapping[str, Family] = MappingProxyType({
    "pixel": Family(label="pixel diffusion", pipelines=("DDPMPipeline", "DDIMPipeline", "PNDMPipeline"), module="pixel"),
    "stable-diffusion": Family(
        label="Stable Diffusion 1 and 2", pipelines=("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"), module="stable_diffusion", text=True,
    ),
    "sdxl": Family(
        label="Stable Diffusion XL", pipelines=("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline"), module="sdxl", text=True,
        takes=("size", "texts.prompt_2", "texts.negative_prompt_2", "texts.clip_skip"),
    ),
    "sd3": Family(label="Stable Diffusion 3", pipelines=("StableDiffusion3Pipeline",), module="sd3", text=True),
    "dit": Family(label="DiT", pipelines=("DiTPipeline",), module="dit"),
})


def family_of_pipeline(name: str) -> Family | None:
    """The family that reads a pipeline of this class, None where none does."""
    return next((family for family in FAMILIES.values() if name in family.pipelines), None)
