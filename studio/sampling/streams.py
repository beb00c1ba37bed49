"""What a run can record beside its numbers: one entry a stream. A new stream is an entry here and the denoiser that fills it."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["STREAMS", "StreamInfo", "ALWAYS", "TOLD", "ToldInfo"]


@dataclass(frozen=True, kw_only=True)
class StreamInfo:
    """A stream of a run.

    symbol: as HTML; label: what it shows, in a few words; about: the same for who cannot see it. kind: "state" and "clean"
    are pictures or latents, "noise" is of deviation 1, "gradient" of any size, "map" is (B, tokens, h, w) in [0, 1], "sizes" is
    (B, units, blocks), numbers from 0 up.
    decodable: a latent one may go through the real decoder. live: shown while the run goes on. kept: part of the trajectory.
    absent: what stands at steps that have none, "x0_hat" or "zeros"; None: every step has it. view: the switch of the stage
    that shows it; "": always shown; None: not a pane of its own.
    """

    symbol: str
    label: str
    about: str
    kind: str
    decodable: bool = False
    live: bool = False
    kept: bool = True
    absent: str | None = None
    view: str | None = ""


_X0, _EPS = "<i>x̂</i><sub>0</sub>", "<i>ε̂</i>"

# In the order in which the stage shows them.
STREAMS: Mapping[str, StreamInfo] = MappingProxyType({
    "x_t": StreamInfo(symbol="<i>x</i><sub>t</sub>", label="what the model sees", about="x_t, what the model sees", kind="state", decodable=True, live=True),
    "x0_uncond": StreamInfo(
        symbol=_X0, label="without the prompt", about="x0_uncond, what it predicts without the prompt", kind="clean", decodable=True, live=True,
        absent="x0_hat", view="guidance",
    ),
    "x0_cond": StreamInfo(
        symbol=_X0, label="with the prompt", about="x0_cond, what it predicts with the prompt", kind="clean", decodable=True, live=True, absent="x0_hat",
        view="guidance",
    ),
    "x0_hat": StreamInfo(symbol=_X0, label="what it believes", about="x0_hat, what the model believes", kind="clean", decodable=True, live=True),
    "x0_skipped": StreamInfo(
        symbol=_X0, label="without some layers", about="x0_skipped, what it predicts without some of its layers", kind="clean", decodable=True,
        absent="x0_hat", view="skipped",
    ),
    "velocity": StreamInfo(
        symbol="<i>v̂</i>", label="which way the flow goes", about="the velocity of the flow, from picture to noise", kind="gradient", absent="zeros",
        view="velocity",
    ),
    "eps_hat": StreamInfo(symbol=_EPS, label="the noise it finds", about="eps_hat, the noise the model finds", kind="noise", view="eps"),
    "eps_uncond": StreamInfo(
        symbol=_EPS, label="the noise without the prompt", about="eps_uncond", kind="noise", kept=False, absent="zeros", view=None,
    ),
    "eps_cond": StreamInfo(symbol=_EPS, label="the noise with the prompt", about="eps_cond", kind="noise", kept=False, absent="zeros", view=None),
    "clip_gradient": StreamInfo(
        symbol="<i>∇</i>", label="where CLIP pulls", about="the gradient of CLIP's distance to the prompt", kind="gradient", live=True, absent="zeros",
        view="clip",
    ),
    "attention": StreamInfo(
        symbol="<i>A</i>", label="where each word is looked at", about="where in the picture each word is looked at", kind="map", absent="zeros", view=None,
    ),
    "residual_sizes": StreamInfo(
        symbol="<i>r</i>", label="how much each ControlNet adds, block by block", about="root mean square of each residual", kind="sizes", absent="zeros",
        view=None,
    ),
})

# The streams of every run.
ALWAYS = ("x_t", "x0_hat", "eps_hat")


@dataclass(frozen=True, kw_only=True)
class ToldInfo:
    """What a network is told in a picture, the same at every step.

    label: what it shows, in a few words. kind: "state" is a latent, "picture" has colours, "grey" one channel. over: it may be laid over
    the belief, since it shows the same place.
    """

    label: str
    kind: str
    over: bool = False


# In the order in which the stage shows them.
TOLD: Mapping[str, ToldInfo] = MappingProxyType({
    "mask": ToldInfo(label="drawn anew (white)", kind="grey", over=True),
    "masked": ToldInfo(label="what it sees of the picture", kind="state", over=True),
    "depth": ToldInfo(label="depth map", kind="grey", over=True),
    "low_res": ToldInfo(label="the small picture, as told", kind="picture", over=True),
    "varied": ToldInfo(label="varied", kind="picture"),
})
