"""What all latent families share: the VAE between latents and pictures, the pipeline's parts, and loading it.

    x0 = (E(picture) - shift) * scaling        picture = D(x0 / scaling + shift)

Rombach et al. 2022 (arXiv:2112.10752). The scaling makes the latents' deviation about 1; it comes from the VAE's config.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from studio.errors import ModelUnavailable, StudioError
from studio.media.previews import RgbMap
from studio.models.added import put_in
from studio.models.beginning import Beginning, begun
from studio.models.catalogue import ModelInfo
from studio.models.conditioning import Unit
from studio.models.families import FAMILIES
from studio.models.original_configs import predicts, says_prediction, write_configs
from studio.models.originals import read_header, recognised
from studio.models.sizes import size_of
from studio.models.sources import READING_FAILS, Source, is_single_file, known_info, scheduler_config_of, why_not
from studio.models.taught import base_of, taught
from studio.models.tracing import Traced
from studio.options import SampleOptions
from studio.process.noise import draw_noise
from studio.process.paths import DiscretePath
from studio.scratch import passing_folder

__all__ = ["Latent", "factor_of", "scaled", "unscaled", "open_pipeline", "open_whole", "latent_info", "discrete_path", "told_residuals"]

# Above so many pixels the VAE works in tiles: its activations at full size are what runs out of memory first.
TILING_PIXELS = 1024 * 1024


@dataclass(kw_only=True)
class Tiling:
    """From how many pixels on the VAE works in tiles; `early`: from one tile on, to spare memory."""

    early: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Latent:
    """A loaded pipeline of a latent family; each family says how its network is told and asked.

    pipeline: diffusers' object with its parts, in eval mode. scheduler_config: as its folder has it.
    """

    name: str
    info: ModelInfo
    pipeline: Any
    path: Any
    scheduler_config: Mapping[str, Any]
    prompts: Any = None
    tiling: Tiling = field(default_factory=Tiling)

    takes_control = False

    @property
    def parts(self) -> dict[str, Any]:
        """The networks that there are, by the names of their folders."""
        names = (
            "text_encoder", "text_encoder_2", "text_encoder_3", "depth_estimator", "image_encoder", "image_normalizer", "unet", "transformer", "vae",
        )
        parts = {name: getattr(self.pipeline, name, None) for name in names}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def network(self) -> Any:
        """The network that predicts."""
        return self.parts[self.network_name]

    @property
    def network_name(self) -> str:
        """The name of its folder."""
        return "unet" if "unet" in self.parts else "transformer"

    @property
    def vae(self) -> Any:
        """The AutoencoderKL."""
        return self.pipeline.vae

    @cached_property
    def device(self) -> torch.device:
        """Where the work is done, also while the weights are offloaded. To look it up takes walks over all networks."""
        return self.pipeline._execution_device

    @property
    def factor(self) -> int:
        """Pixels a latent's side: 8 for Stable Diffusion, 4 for Toybox."""
        return factor_of(self.vae)

    @property
    def multiple(self) -> int:
        """What the sides of a picture must be multiples of."""
        return self.factor * getattr(self.network.config, "patch_size", 1)

    def state_shape(self, options: SampleOptions) -> tuple[int, int, int]:
        """(C, h, w) of one state for these options. Raises InvalidOption with the nearest size that can be made."""
        width, height = size_of(self.info, options, self.multiple)
        return self.vae.config.latent_channels, height // self.factor, width // self.factor

    @property
    def takes(self) -> tuple[str, ...]:
        """The options of pictures that it is told and others are not."""
        return FAMILIES[self.info.family].takes

    @property
    def concat_channels(self) -> int:
        """Channels that the network takes beside the state."""
        return self.network.config.in_channels - self.vae.config.latent_channels

    def begin(self, options: SampleOptions, generators: Sequence[torch.Generator]) -> Beginning:
        """What a run begins with: nothing told in pictures. Raises InvalidOption, UnknownName."""
        return begun(self, options, generators)

    def make_ready(self, options: SampleOptions, control: tuple[Unit, ...] = ()) -> None:
        """Nothing to be made: a family with small networks has graphs."""

    def encode(self, pictures: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Clean states (B, C, h, w) of pictures (B, 3, H, W), drawn from the VAE's posterior."""
        mean, std = self.posterior(pictures)
        return self.scaled(mean + std * draw_noise(generators, mean.shape[1:], mean.device))

    def posterior(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation (B, C, h, w) float32 of the VAE's latents of pictures (B, 3, H, W), not yet scaled."""
        self._tile(pictures.shape[-1] * pictures.shape[-2])
        with torch.no_grad():
            distribution = self.vae.encode(pictures.to(self.device, self.vae.dtype)).latent_dist
        return distribution.mean.float(), distribution.std.float()

    def scaled(self, latents: Tensor) -> Tensor:
        """The VAE's own latents as the network wants them."""
        return scaled(latents, self.vae)

    def decode(self, x0: Tensor) -> Tensor:
        """(B, C, h, w) latents -> (B, 3, H, W) pictures float32, about [-1, 1]. Gradients flow where they are wanted."""
        self._tile(x0.shape[-1] * x0.shape[-2] * self.factor**2)
        z = unscaled(x0, self.vae).to(self.vae.dtype)
        return (_decoded(self.vae, z) if self.vae.use_tiling else self.decoder(z)).float()

    @cached_property
    def decoder(self) -> Traced:
        """The VAE's decoder at once, without tiles, as graphs where they were made ready."""
        return Traced(self.vae.decoder, _Decode(self.vae))

    def make_decoder_ready(self, options: SampleOptions) -> None:
        """A graph for the pictures of these options."""
        channels, height, width = self.state_shape(options)
        if height * width * self.factor**2 <= self.tiling_pixels:
            self.decoder.prepare(torch.zeros(options.num_images, channels, height, width, device=self.device, dtype=self.vae.dtype))

    def decoded_at_once(self, height: int, width: int) -> tuple[int, int]:
        """Of latents of that size, the height and width that go through the decoder together: all, or a tile."""
        if height * width * self.factor**2 <= self.tiling_pixels:
            return height, width
        return min(height, self.vae.tile_latent_min_size), min(width, self.vae.tile_latent_min_size)

    @property
    def tiling_pixels(self) -> int:
        """So many pixels go through the VAE together; more of them in tiles."""
        return min(TILING_PIXELS, (self.vae.tile_latent_min_size * self.factor) ** 2) if self.tiling.early else TILING_PIXELS

    @property
    def tiles_early(self) -> bool:
        """Whether it works in tiles to spare memory."""
        return self.tiling.early

    def spare_memory(self) -> bool:
        """Take smaller pieces from now on; whether that is a change."""
        changed, self.tiling.early = not self.tiling.early, True
        return changed

    def _tile(self, pixels: int) -> None:
        self.vae.use_tiling = pixels > self.tiling_pixels

    @cached_property
    def rgb_map(self) -> RgbMap:
        """The linear map from latents to small pictures, fitted at first use."""
        from studio.models.rgb_maps import rgb_map_of

        return rgb_map_of(self)

    def facts(self) -> dict[str, Any]:
        """What a run file must know of the model to be read without it."""
        return {"name": self.name, "label": self.info.label, "factor": self.factor, "rgb_map": self.rgb_map.to_json()}


def _decoded(vae: Any, z: Tensor) -> Tensor:
    picture: Tensor = vae.decode(z, return_dict=False)[0]
    return picture


class _Decode(torch.nn.Module):
    """The decoding half of a VAE as a function of its latents."""

    def __init__(self, vae: torch.nn.Module):
        super().__init__()
        self.vae = vae

    def forward(self, z: Tensor) -> Tensor:
        return _decoded(self.vae, z)


def scaled(latents: Tensor, vae: Any) -> Tensor:
    """A VAE's own latents (B, C, h, w) as its diffusion model wants them, of deviation about 1. Inference and training alike."""
    shift, scale = _shift_and_scale(vae, latents)
    return (latents - shift) * scale


def unscaled(x0: Tensor, vae: Any) -> Tensor:
    """The inverse of `scaled`."""
    shift, scale = _shift_and_scale(vae, x0)
    return x0 / scale + shift


def _shift_and_scale(vae: Any, like: Tensor) -> tuple[Any, Any]:
    """Numbers, or one a channel where the VAE's config names the mean and the deviation of its latents."""
    config = vae.config
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is not None and std is not None:
        mean, std = (torch.tensor(values, dtype=like.dtype, device=like.device).reshape(1, -1, 1, 1) for values in (mean, std))
        return mean, config.scaling_factor / std
    return getattr(config, "shift_factor", None) or 0.0, config.scaling_factor


def told_residuals(residuals: Sequence[Tensor]) -> dict[str, Any]:
    """How a UNet2DConditionModel is told what ControlNets add: one a skip connection, then the middle. Empty where there is none."""
    return {"down_block_additional_residuals": tuple(residuals[:-1]), "mid_block_additional_residual": residuals[-1]} if residuals else {}


def factor_of(vae: Any) -> int:
    """Pixels a latent's side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


# --- loading -------------------------------------------------------------------------------------------------

def open_pipeline(source: Source, kind: str, what: str, parts: str, **options: Any) -> Any:
    """The pipeline of a folder, Hub id or single file, from safetensors, on its device and in eval mode.

    Args:
        kind: the class of diffusers. what, parts: in words, for the sentence that says why it could not be read.
    Raises:
        ModelUnavailable.
    """
    import diffusers

    cls = getattr(diffusers, kind)
    try:
        pipeline = _read(cls, source, {"dtype": source.dtype, **options})
    except StudioError:
        raise
    except READING_FAILS as error:
        raise ModelUnavailable(why_not(source.name, error, what, parts)) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def open_whole(source: Source, opened: Callable[[Source], Any]) -> Any:
    """The pipeline that `opened` reads at the place of a source, or of its base, with what was taught put in. Raises ModelUnavailable."""
    from studio.models.loading import resolve

    base = base_of(source.place)
    return taught(opened(dataclasses.replace(source, place=resolve(base))), source.place) if base else opened(source)


def _read(cls: Any, source: Source, options: dict[str, Any]) -> Any:
    if not is_single_file(source.place):
        return cls.from_pretrained(source.place, use_safetensors=True, **options)
    header, beside = read_header(source.place), Path(source.place).with_suffix("")
    kind = recognised(header, source.name)
    # A checkpoint in one file has no image encoder and no safety checker to be left out.
    options = {key: value for key, value in options.items() if key not in ("feature_extractor", "image_encoder", "safety_checker")}
    if (beside / "model_index.json").is_file():
        return cls.from_single_file(source.place, config=str(beside), local_files_only=True, **options)
    with passing_folder() as folder:
        absent = dict.fromkeys(write_configs(folder, header, kind, beside))
        pipeline = cls.from_single_file(source.place, config=str(folder), local_files_only=True, **absent, **options)
    if kind == "sd2" and not says_prediction(header) and predicts(pipeline.unet, pipeline.text_encoder.config.hidden_size) == "epsilon":
        # As published, the one that predicts noise makes pictures of 512 x 512, the other of 768 x 768.
        pipeline.scheduler.register_to_config(prediction_type="epsilon")
        pipeline.unet.register_to_config(sample_size=64)
    return pipeline


def put_on_device(pipeline: Any, source: Source) -> None:
    """Its networks, with what is put into them, where they work, in eval mode, without gradients of their weights. Raises ModelUnavailable."""
    put_in(pipeline, source.name, source.added)
    if source.offload == "fp8":
        network = getattr(pipeline, "unet", None) or pipeline.transformer
        network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=source.dtype)
    if source.offload == "layers":
        pipeline.enable_sequential_cpu_offload(device=source.device)
    elif source.offload:
        pipeline.enable_model_cpu_offload(device=source.device)
    else:
        pipeline.to(source.device)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)


def require_fit(name: str, *pairs: tuple[str, int | None, str, int | None]) -> None:
    """Parts that do not belong together are refused before the first step. Raises ModelUnavailable.

    pairs: (what one part has, its width, what the other wants, that width); a width of None is not known and not compared.
    """
    for one, width, other, wanted in pairs:
        if width is not None and wanted is not None and width != wanted:
            raise ModelUnavailable(f"The parts of {name!r} do not belong together: {one} {width}, and {other} {wanted}. Take all parts from one checkpoint.")


def latent_info(source: Source, pipeline: Any, family: str, sample_size: Any, num_timesteps: int, **more: Any) -> ModelInfo:
    """The menu entry with the real sizes: of `sample_size` latents a side."""
    height, width = (sample_size, sample_size) if isinstance(sample_size, int) else sample_size
    factor = factor_of(pipeline.vae)
    return dataclasses.replace(known_info(source.name, family), width=width * factor, height=height * factor, num_timesteps=num_timesteps, **more)


def discrete_path(pipeline: Any, diffusion: Any) -> tuple[DiscretePath, dict[str, Any]]:
    """The path and the scheduler's config of a pipeline whose process has betas."""
    config = scheduler_config_of(pipeline)
    path = DiscretePath(
        diffusion=diffusion, timestep_spacing=config.get("timestep_spacing", "leading"), steps_offset=int(config.get("steps_offset", 0)),
        # Latents have no bounds of their own, so nothing is clipped.
        final_alpha_bar=1.0 if config.get("set_alpha_to_one", True) else float(1 - diffusion.betas[0]),
    )
    return path, config
