"""DiT: a transformer on patches of latents, told a class, that learns its variance.

Peebles & Xie 2022 (arXiv:2212.09748). Guidance acts on epsilon; the variance is the class's own.
"""

from base64 import b64encode
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from studio.models.attention import PatchAttentionRecorder
from studio.models.classes import check_class_guidance, class_index, refuse_words
from studio.models.conditioning import Conditioning
from studio.models.latents import Latent, discrete_path, latent_info, open_pipeline, put_on_device, require_fit
from studio.models.patches import patches_of
from studio.models.sources import Source, diffusion_of, scheduler_config_of
from studio.options import SampleOptions

__all__ = ["DiT", "load"]

PARTS = "(transformer/, vae/ and scheduler/)"


@dataclass(frozen=True, kw_only=True, eq=False)
class DiT(Latent):
    """A loaded DiTPipeline."""

    @property
    def null_class(self) -> int:
        """The label that stands for "none": the one after the last class."""
        return self.network.config.num_embeds_ada_norm

    def condition(self, options: SampleOptions) -> tuple[Conditioning, Conditioning]:
        """The class, and the null class. Raises InvalidOption, UnknownName."""
        refuse_words(self.info, options, attends=True)
        index = class_index(self.info, options.class_label, self.null_class)
        check_class_guidance(self.info, options, index, self.null_class)
        cond, uncond = (Conditioning(label=torch.tensor([label], device=self.device)) for label in (index, self.null_class))
        return cond, uncond

    def predict(self, x_t: Tensor, t: float, conditioning: Conditioning) -> Tensor:
        """Epsilon and the variance's share at x_t (B, C, h, w): (B, 2C, h, w) float32."""
        timestep = torch.full((len(x_t),), t, device=x_t.device)
        return self.network(x_t.to(self.network.dtype), timestep=timestep, class_labels=conditioning.label, return_dict=False)[0].float()

    def word_attention(self, options: SampleOptions) -> PatchAttentionRecorder:
        """It reads no words: of its patches, where each looked."""
        _, height, width = self.state_shape(options)
        patch = self.network.config.patch_size
        return PatchAttentionRecorder(self.network, options.num_images, height // patch, width // patch)

    def facts(self) -> dict[str, Any]:
        """And what its patches are: pixels a side, how many each way, and how alike their positions are.

        positions: base64 of N x N bytes, patch by patch, 255 the same place; of more than 16x16 patches neighbours are taken together.
        """
        patches = patches_of(self)
        assert patches is not None
        positions = b64encode(patches.alike().numpy().tobytes()).decode()
        return {**super().facts(), "patches": {"size": patches.pixels, "grid": list(patches.grid), "positions": positions}}


# --- loading -------------------------------------------------------------------------------------------------

def load(source: Source) -> DiT:
    """From a folder or Hub id. Raises ModelUnavailable."""
    pipeline = open_pipeline(source, "DiTPipeline", "DiT model", PARTS)
    network = pipeline.transformer.config
    require_fit(source.name, ("its VAE has latents of", pipeline.vae.config.latent_channels, "its transformer takes", network.in_channels))
    put_on_device(pipeline, source)
    learned = {"var_type": "learned_range" if network.out_channels == 2 * network.in_channels else "fixed_large"}
    path, config = discrete_path(pipeline, diffusion_of(scheduler_config_of(pipeline), learned))
    names = _class_names(source.place, network.num_embeds_ada_norm)
    info = latent_info(source, pipeline, "dit", network.sample_size, path.num_timesteps, class_names=names)
    return DiT(name=source.name, info=info, pipeline=pipeline, path=path, scheduler_config=config)


def _class_names(place: str, count: int) -> tuple[str, ...]:
    """The first name of each class, and its index where two share it or it has none."""
    from diffusers import DiffusionPipeline

    # The pipeline itself sorts its names, so which came first is read from its index.
    named = DiffusionPipeline.load_config(place).get("id2label") or {}
    said = {int(key): value.split(",")[0].strip() for key, value in named.items()}
    names = [said.get(index, f"class {index}") for index in range(count)]
    return tuple(f"{name} ({index})" if names.count(name) > 1 else name for index, name in enumerate(names))
