"""Our loop, streaming, with every step recorded, against DDPMPipeline and DDIMPipeline on the same network."""

import numpy as np
import torch

from studio import SampleOptions, Studio
from studio.models.loading import resolve
from studio.sampling.loop import sample
from tests.benchmarks.paired import time_paired

ROUNDS = 9
NUM_STEPS = 50
LABEL = 3


def main() -> None:
    studio = Studio()
    print("| model | scheduler | images | ours, s | pipeline, s | ratio | largest difference of 255 |\n|---|---|---|---|---|---|---|")
    for name in ("digits-ddpm", "toybox-ddpm"):
        for scheduler in ("ddpm", "ddim"):
            for num_images in (1, 4):
                _compare(studio.model(name), scheduler, num_images)


def _compare(model, scheduler: str, num_images: int) -> None:
    options = SampleOptions(model=model.name, scheduler=scheduler, num_steps=NUM_STEPS, num_images=num_images, class_label=LABEL)
    # As the studio does with the model that a tab opens with.
    model.make_ready(options)
    pipeline = _pipeline(model, scheduler, num_images)

    def ours() -> np.ndarray:
        *_, finished = sample(model, options)
        return np.stack([np.asarray(image) for image in finished.images])

    def theirs() -> np.ndarray:
        extra = {"eta": 0.0, "use_clipped_model_output": True} if scheduler == "ddim" else {}
        generators = [torch.Generator().manual_seed(i) for i in range(num_images)]
        images = pipeline(batch_size=num_images, generator=generators, num_inference_steps=NUM_STEPS, **extra).images
        return np.stack([np.asarray(image.convert("RGB")) for image in images])

    difference = np.abs(ours().astype(int) - theirs()).max()
    timing = time_paired(ours, theirs, ROUNDS)
    print(f"| {model.name} | {scheduler} | {num_images} | {timing.ours_s:.3f} | {timing.theirs_s:.3f} | {timing.ratio:.3f} | {difference} |", flush=True)


def _pipeline(model, scheduler: str, num_images: int):
    """diffusers' pipeline around the very network that our loop uses, its class bound."""
    from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler

    config = DDPMScheduler.load_config(resolve(model.name), subfolder="scheduler")
    network = _WithLabel(model.network, torch.full((num_images,), LABEL))
    if scheduler == "ddpm":
        pipeline = DDPMPipeline(network, DDPMScheduler.from_config(config))
    else:
        pipeline = DDIMPipeline(network, DDIMScheduler.from_config(config, set_alpha_to_one=True))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class _WithLabel(torch.nn.Module):
    """A class-conditional UNet2DModel as the unconditional one that the pipelines expect."""

    def __init__(self, network, labels):
        super().__init__()
        self.network, self.labels, self.config, self.dtype, self.device = network, labels, network.config, network.dtype, network.device

    def forward(self, x, t):
        return self.network(x, t, class_labels=self.labels)


if __name__ == "__main__":
    main()
