"""What a run takes, before it begins: the most memory that it holds at once, and in public the work that it is.

    while it draws    recorded steps + what a pass through the network holds (twice where both conditions are asked)
    at its end        recorded steps + what the decoder holds

The passes are counted without computing them (studio.models.activations), once a model and size, and only where a bound
that is quick and much too high does not fit.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from studio.errors import TooLarge
from studio.machine import in_words, total_ram
from studio.models.classes import refuse_untold
from studio.models.room import Need
from studio.options import SampleOptions
from studio.process.schedules import parse_timesteps
from studio.sampling.streams import ALWAYS

if TYPE_CHECKING:
    from torch import Tensor

    from studio.models.catalogue import ModelInfo
    from studio.models.companions import Clip
    from studio.models.conditioning import Conditioning
    from studio.models.contract import DiffusionModel

__all__ = ["need_of_runs", "need_of_decoding", "check_public", "check_public_work", "check_least", "num_steps_of", "PUBLIC_WORK", "PUBLIC_SIDES"]

MIB = 2**20

# --- what a public studio does -------------------------------------------------------------------------------

# Pixels times steps times pictures of a run: 64 pictures of 64 x 64 in 32 steps. What is recorded of that fits into what
# is kept for a session (studio.kept.PUBLIC_LIMITS).
PUBLIC_WORK = 2**23
# Sides of a picture, in those of the model's own: attention takes the fourth power of them, and no step can be broken off.
PUBLIC_SIDES = 4


def check_public(info: "ModelInfo", options: SampleOptions) -> None:
    """Refuse what is more than a visitor of a public studio may ask for, in numbers. Raises TooLarge."""
    check_public_work(info, options.width or info.width, options.height or info.height, options.num_images, num_steps_of(options))


def check_public_work(info: "ModelInfo", width: int, height: int, num_images: int, steps: int) -> None:
    """The same for pictures of so many pixels each way, in so many steps. Raises TooLarge."""
    if width > PUBLIC_SIDES * info.width or height > PUBLIC_SIDES * info.height:
        raise TooLarge(
            f"A public studio draws at most {PUBLIC_SIDES * info.width} x {PUBLIC_SIDES * info.height} pixels with {info.label}, but this is "
            f"{width} x {height}: make it smaller, or start the studio on your own machine."
        )
    work = width * height * num_images * steps
    if work > PUBLIC_WORK:
        raise TooLarge(
            f"A public studio draws at most {PUBLIC_WORK:,} pixels in all steps of a run, but {width} x {height} pixels x {num_images} pictures x "
            f"{steps} steps are {work:,}: take fewer pictures or steps, or make it smaller."
        )


def num_steps_of(options: SampleOptions) -> int:
    """Steps that a run takes, as far as its options say."""
    if options.timesteps:
        counts = parse_timesteps(options.timesteps)
        steps = counts if isinstance(counts, int) else sum(counts)
    else:
        steps = options.num_steps
    return max(1, int(steps * options.strength) if options.init_image is not None else steps)


# --- memory --------------------------------------------------------------------------------------------------

# Bytes of a number of a state as it is recorded: half precision in every stream, and what it leaves out of two of them.
RECORDED_BYTES = 2 * len(ALWAYS) + 2
GUIDED_BYTES, GRADIENT_BYTES, ATTENTION_BYTES = 4, 2, 2
# States in float32 that the loop, its sampler and its events hold; bytes of a value on the way from the decoder to a picture.
STATES, PICTURE_BYTES = 12, 14
# The C library keeps what was freed in pieces of less than 32 MiB: at most so much more than is in use, as measured.
KEPT_SHARE, KEPT_BYTES = 0.5, 160 * MIB
# What kernels keep that meet a size for the first time.
KERNEL_BYTES = 16 * MIB
# The quick bound: channels that a pass holds at once, in those of the network's first convolution. Embedded models hold 11 to 14.
CROWD = 64
# And how many times as much where gradients are taken: then every layer keeps what it needs for them.
GRADIENT_CROWD = 8


def need_of_runs(model: "DiffusionModel", runs: Sequence[SampleOptions], *, quick: bool, keep: bool = True) -> Need:
    """Of runs one after the other; keep: all of them are held to the end. quick: a bound that is much too high, in no time.

    Raises what the runs themselves would raise for options that do not fit the model.
    """
    needs = [_need_of_run(model, options, quick) for options in runs]
    kept = sum(need.kept for need in needs) if keep else 0
    beside = [need.beside(kept - need.kept) if keep else need for need in needs]
    return Need(phases=tuple(phase for need in beside for phase in need.phases), kept=kept)


def need_of_decoding(model: "DiffusionModel", num_images: int, height: int, width: int, *, quick: bool) -> Need:
    """Of (num_images, C, height, width) states through the decoder to pictures."""
    values = 3 * num_images * height * width * model.factor**2
    # Tiles are kept until they are put together.
    tiles = 8 * values if model.decoded_at_once(height, width) != (height, width) else 0
    return Need(phases=((_decoding(model, num_images, height, width, quick) + tiles, values * PICTURE_BYTES),))


def _need_of_run(model: "DiffusionModel", options: SampleOptions, quick: bool) -> Need:
    channels, height, width = model.state_shape(options)
    # Whatever does not fit the model is said as the run itself would say it.
    refuse_untold(model.info, options)
    model.condition(options)
    count, state = options.num_images, channels * height * width
    recorded = _recorded(model, options, state)
    decoding = need_of_decoding(model, count, height, width, quick=quick).beside(recorded)
    drawing = _drawing(model, options, (channels, height, width), quick) + STATES * count * state * 4
    return Need(phases=((drawing + KERNEL_BYTES, recorded), *decoding.phases), kept=recorded)


def _recorded(model: "DiffusionModel", options: SampleOptions, state: int) -> int:
    each = RECORDED_BYTES + (GUIDED_BYTES if options.guidance_scale != 1 else 0) + (GRADIENT_BYTES if options.clip_guidance_scale else 0)
    # The velocity of a flow, and what is believed without some layers.
    each += 2 * ((model.path.prediction_type == "flow_prediction") + bool(options.skipped.layers))
    step = state * each
    if options.record_attention:
        from studio.models.attention import MAX_SIDE

        step += ATTENTION_BYTES * (model.prompts.places(options) if model.prompts is not None else MAX_SIDE**2) * MAX_SIDE**2
    return num_steps_of(options) * options.num_images * step


def _drawing(model: "DiffusionModel", options: SampleOptions, shape: tuple[int, int, int], quick: bool) -> int:
    """Of a step: the network asked about all pictures at once."""
    passes = 2 if options.guidance_scale != 1 else 1
    if options.units:
        # A ControlNet holds less than the network, one after the other; what they add is held beside its pass.
        passes *= 2
    if options.clip_guidance_scale:
        return _with_kept(model, options.num_images * _guided_by_clip(model, options, shape, passes, quick))
    asked = passes * options.num_images
    if quick:
        return _with_kept(model, asked * _crowd(model.network, shape[1] * shape[2]))
    return _with_kept(model, asked * _counted(model, ("network", *shape[1:]), lambda: _network_pass(model, options, shape)))


def _guided_by_clip(model: "DiffusionModel", options: SampleOptions, shape: tuple[int, int, int], passes: int, quick: bool) -> int:
    """Of a step for one picture: forward and backward through network, decoder and CLIP."""
    from studio.sampling.guidance import clip_for

    clip, places = clip_for(model, options), shape[1] * shape[2]
    if quick:
        crowd = passes * _crowd(model.network, places) + _crowd(model.parts["vae"], places * model.factor**2)
        return GRADIENT_CROWD * crowd + sum(weight.numel() * weight.element_size() for weight in clip.network.parameters())
    return _counted(model, ("clip", passes, clip.name, *shape[1:]), lambda: _clip_pass(model, clip, options, shape, passes))


def _decoding(model: "DiffusionModel", num_images: int, height: int, width: int, quick: bool) -> int:
    vae = model.parts.get("vae")
    if vae is None:
        return 0
    height, width = model.decoded_at_once(height, width)
    if quick:
        return _with_kept(model, num_images * _crowd(vae, height * width * model.factor**2))
    channels = vae.config.latent_channels
    counted = _counted(model, ("decoder", height, width), lambda: _decoder_pass(model, (channels, height, width)))
    return _with_kept(model, num_images * counted)


def _with_kept(model: "DiffusionModel", peak: int) -> int:
    return peak + (int(min(KEPT_SHARE * peak, KEPT_BYTES)) if model.device.type == "cpu" else 0)


# --- passes, counted -----------------------------------------------------------------------------------------

_known: "WeakKeyDictionary[Any, dict[tuple[Any, ...], int]]" = WeakKeyDictionary()


def _counted(model: "DiffusionModel", key: tuple[Any, ...], count: Callable[[], int]) -> int:
    """Bytes of a pass for one picture, counted once a model and size."""
    known = _known.setdefault(model, {})
    if key not in known:
        with _as_they_lie(model):
            known[key] = count()
    return known[key]


def _crowd(network: Any, places: int) -> int:
    """Bytes of `places` with CROWD times the channels of the first convolution: more than a pass holds at once."""
    from torch.nn import Conv2d

    first = next((module for module in network.modules() if isinstance(module, Conv2d)), None)
    weight = next(network.parameters())
    return CROWD * (first.out_channels if first is not None else max(weight.shape)) * places * weight.element_size()


def _network_pass(model: "DiffusionModel", options: SampleOptions, shape: tuple[int, int, int]) -> int:
    import torch

    from studio.models.activations import live_peak

    device = next(model.network.parameters()).device
    told = _told(model, options, 1, device)
    return live_peak(lambda: model.predict(torch.zeros(1, *shape, device=device), 1.0, told))


def _decoder_pass(model: "DiffusionModel", shape: tuple[int, int, int]) -> int:
    import torch

    from studio.models.activations import live_peak

    device = next(model.parts["vae"].parameters()).device
    return live_peak(lambda: model.decode(torch.zeros(1, *shape, device=device)))


def _clip_pass(model: "DiffusionModel", clip: "Clip", options: SampleOptions, shape: tuple[int, int, int], passes: int) -> int:
    """Network, decoder and CLIP forward and backward: see studio.sampling.guidance.ClipGuided."""
    import torch

    from studio.models.activations import live_peak
    from studio.sampling.guidance import NUM_CUTS, resized

    device = next(model.network.parameters()).device
    told = _told(model, options, passes, device)

    def work() -> "Tensor":
        x = torch.zeros(1, *shape, device=device, requires_grad=True)
        said = model.predict(x.repeat(passes, 1, 1, 1), 1.0, told)[:1, : shape[0]]
        cut = resized(model.decode(x - said)[0], clip.side)
        (gradient,) = torch.autograd.grad(clip.embed_pictures(cut.repeat(NUM_CUTS, 1, 1, 1)).sum(), x)
        return gradient

    return live_peak(work)


def _told(model: "DiffusionModel", options: SampleOptions, passes: int, device: Any) -> "Conditioning":
    from studio.models.conditioning import batched

    cond, _ = model.condition(options)
    told = batched([cond] * passes, 1)
    moved = {field.name: getattr(told, field.name).to(device) for field in dataclasses.fields(told) if hasattr(getattr(told, field.name), "to")}
    return dataclasses.replace(told, **moved)


@contextmanager
def _as_they_lie(model: "DiffusionModel") -> Iterator[None]:
    """Networks that are lent to the device part by part stay where they are: the hooks that would move them are set aside."""
    lent = [part for part in model.parts.values() if hasattr(part, "_hf_hook")]
    hooks = [(part, part._hf_hook, part.forward) for part in lent]
    for part in lent:
        part.forward = part._old_forward
        del part._hf_hook
    try:
        yield
    finally:
        for part, hook, forward in hooks:
            part._hf_hook, part.forward = hook, forward


# --- before a model is loaded --------------------------------------------------------------------------------

def check_least(info: "ModelInfo", options: SampleOptions) -> None:
    """Refuse what could not fit into this computer if nothing else were in it: the pictures alone. Raises TooLarge."""
    pixels = options.num_images * (options.width or info.width) * (options.height or info.height)
    steps = num_steps_of(options) * info.channels * RECORDED_BYTES if info.family == "pixel" else 0
    least, there = pixels * (3 * PICTURE_BYTES + steps), total_ram()
    if least > there:
        raise TooLarge(f"This needs more than {in_words(least)} and this computer has {in_words(there)}: make it smaller, or take fewer pictures or steps.")
