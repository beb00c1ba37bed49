"""The menu of ControlNets: data only. Embedded ones lie in assets/models; the others are fetched from the Hub on request."""

from dataclasses import dataclass
from pathlib import Path

from studio.models.catalogue import ASSETS
from studio.models.facts import model_facts

__all__ = ["CONTROLNETS", "NET_CLASSES", "ControlNetInfo", "control_info", "is_controlnet"]

# The classes of diffusers that are ControlNets here.
NET_CLASSES = ("ControlNetModel", "SD3ControlNetModel")


@dataclass(frozen=True, kw_only=True)
class ControlNetInfo:
    """A menu entry.

    source: a folder under assets/, a folder, a file, or a Hub id. base: the models it is for, in words. annotators: what makes
    its maps, keys of studio.control.ANNOTATORS, the best first; () = not known. size_mib: what a download takes, 0 = embedded.
    """

    label: str
    about: str
    source: str
    base: str = ""
    annotators: tuple[str, ...] = ()
    size_mib: int = 0
    memory_gib: float = 0.1
    licence: str = "MIT"

    @property
    def embedded(self) -> bool:
        """Whether it needs no download."""
        return self.size_mib == 0


def _of_15(name: str, label: str, *annotators: str, version: str = "1.1") -> tuple[str, ControlNetInfo]:
    return name, ControlNetInfo(
        label=f"{label} {version} (SD 1.5)", about=f"{label}, for Stable Diffusion 1.5.", source=name, base="Stable Diffusion 1", annotators=annotators,
        size_mib=1_380, memory_gib=0.7, licence="CreativeML OpenRAIL-M",
    )


def _of_21(name: str, label: str, *annotators: str) -> tuple[str, ControlNetInfo]:
    return name, ControlNetInfo(
        label=f"{label} (SD 2.1)", about=f"{label}, for Stable Diffusion 2.1.", source=name, base="Stable Diffusion 2", annotators=annotators,
        size_mib=1_390, memory_gib=0.7, licence="CreativeML OpenRAIL++-M",
    )


def _of_xl(
    name: str, label: str, *annotators: str, size_mib: int = 4_780, licence: str = "CreativeML OpenRAIL++-M",
) -> tuple[str, ControlNetInfo]:
    by = "" if name.startswith("diffusers/") else f" by {name.split('/')[0]}"
    return name, ControlNetInfo(
        label=f"{label}{by} (SDXL)", about=f"{label}, for Stable Diffusion XL.", source=name, base="Stable Diffusion XL", annotators=annotators,
        size_mib=size_mib, memory_gib=2.4, licence=licence,
    )


def _of_sd3(name: str, label: str, base: str, size_mib: int, *annotators: str) -> tuple[str, ControlNetInfo]:
    return name, ControlNetInfo(
        label=f"{label} ({base.replace('Stable Diffusion', 'SD')})", about=f"{label}, for {base}.", source=name, base=base, annotators=annotators,
        size_mib=size_mib, memory_gib=round(size_mib / 1000, 1), licence="Stability AI Community",
    )


def _embedded(kind: str, label: str, *annotators: str) -> tuple[str, ControlNetInfo]:
    name = f"toybox-controlnet-{kind}"
    return name, ControlNetInfo(
        label=f"Toybox {label}", about=f"Follows {label} of drawn scenes; trained here for toybox-sd.", source=f"models/{name}", base="toybox-sd",
        annotators=annotators,
    )


_EVERY: dict[str, ControlNetInfo] = dict([
    _embedded("canny", "edges", "toybox-edges", "canny", "scribble"), _embedded("depth", "depth", "toybox-depth", "depth-anything"),
    _embedded("segmentation", "segmentation", "toybox-segmentation"),
    _of_15("lllyasviel/control_v11p_sd15_canny", "Canny edges", "canny"),
    _of_15("lllyasviel/control_v11f1p_sd15_depth", "Depth", "depth-anything", "midas"),
    _of_15("lllyasviel/control_v11p_sd15_normalbae", "Normals", "normal-bae"),
    _of_15("lllyasviel/control_v11p_sd15_openpose", "Pose", "openpose"),
    _of_15("lllyasviel/control_v11p_sd15_scribble", "Scribble", "scribble", "canny"),
    _of_15("lllyasviel/control_v11p_sd15_softedge", "Soft edges", "softedge-hed", "softedge-pidi"),
    _of_15("lllyasviel/control_v11p_sd15_lineart", "Line art", "lineart", "lineart-standard"),
    _of_15("lllyasviel/control_v11p_sd15s2_lineart_anime", "Line art, anime", "lineart-anime"),
    _of_15("lllyasviel/control_v11p_sd15_mlsd", "Straight lines", "mlsd"),
    _of_15("lllyasviel/control_v11p_sd15_seg", "Segmentation", "map"),
    _of_15("lllyasviel/control_v11e_sd15_shuffle", "Shuffled content", "shuffle"),
    _of_15("lllyasviel/sd-controlnet-canny", "Canny edges", "canny", version="1.0"),
    _of_15("lllyasviel/sd-controlnet-depth", "Depth", "midas", "depth-anything", version="1.0"),
    _of_15("lllyasviel/sd-controlnet-scribble", "Scribble", "scribble", version="1.0"),
    _of_15("lllyasviel/sd-controlnet-openpose", "Pose", "openpose", version="1.0"),
    _of_15("lllyasviel/sd-controlnet-seg", "Segmentation", "map", version="1.0"),
    _of_21("thibaud/controlnet-sd21-canny-diffusers", "Canny edges", "canny"),
    _of_21("thibaud/controlnet-sd21-depth-diffusers", "Depth", "midas", "depth-anything"),
    _of_xl("diffusers/controlnet-canny-sdxl-1.0", "Canny edges", "canny"),
    _of_xl("diffusers/controlnet-depth-sdxl-1.0", "Depth", "depth-anything", "midas"),
    _of_xl("xinsir/controlnet-openpose-sdxl-1.0", "Pose", "openpose", size_mib=2_500, licence="Apache-2.0"),
    _of_xl("xinsir/controlnet-scribble-sdxl-1.0", "Scribble", "scribble", "softedge-hed", size_mib=2_500, licence="Apache-2.0"),
    _of_sd3("InstantX/SD3-Controlnet-Canny", "Canny edges", "Stable Diffusion 3 medium", 2_300, "canny"),
    _of_sd3("InstantX/SD3-Controlnet-Pose", "Pose", "Stable Diffusion 3 medium", 2_300, "openpose"),
    _of_sd3("InstantX/SD3-Controlnet-Tile", "Tile, keeps the picture's colours", "Stable Diffusion 3 medium", 2_300, "map"),
    _of_sd3("stabilityai/stable-diffusion-3.5-large-controlnet-canny", "Canny edges", "Stable Diffusion 3.5 large", 8_700, "canny"),
    _of_sd3("stabilityai/stable-diffusion-3.5-large-controlnet-depth", "Depth", "Stable Diffusion 3.5 large", 8_700, "depth-anything"),
    _of_sd3("stabilityai/stable-diffusion-3.5-large-controlnet-blur", "Blur, keeps the picture's colours", "Stable Diffusion 3.5 large", 8_700, "map"),
])

# An embedded one that is still to be trained is in no menu.
CONTROLNETS: dict[str, ControlNetInfo] = {name: info for name, info in _EVERY.items() if not info.embedded or (ASSETS / info.source).is_dir()}


def control_info(name: str) -> ControlNetInfo:
    """The menu entry of a ControlNet, or a new one for one that is in no menu: of a run, its folder says what it follows."""
    if name in CONTROLNETS:
        return CONTROLNETS[name]
    path = Path(name)
    facts = model_facts(path) if path.is_dir() else {}
    own = path.parent.name if path.name == "model" else path.name.removesuffix(".safetensors")
    return ControlNetInfo(label=own, about=f"From {name}.", source=name, base=facts.get("base", ""), annotators=tuple(facts.get("annotators", ())))


def is_controlnet(folder: Path) -> bool:
    """Whether the folder holds a ControlNet, by its config. Raises DamagedFile."""
    from studio.files import read_object

    return (read_object(folder / "config.json") or {}).get("_class_name") in NET_CLASSES
