"""What a run can record beside its numbers: one entry a stream. A new stream is an entry here and the denoiser that fills it."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["STREAMS", "StreamInfo", "ALWAYS"]


@dataclass(frozen=True, kw_only=True)
class StreamInfo:
    """A stream of a run.

    label: what it shows, in a few words. kind: "state" and "clean" are pictures or latents, "noise" is of deviation 1,
    "gradient" of any size, "map" is (B, tokens, h, w) in [0, 1]. decodable: a latent one may go through the real decoder.
    live: shown while the run goes on. kept: part of the trajectory. absent: what stands at steps that have none,
    "x0_hat" or "zeros"; None: every step has it.
    """

    label: str
    kind: str
    decodable: bool = False
    live: bool = False
    kept: bool = True
    absent: str | None = None


STREAMS: Mapping[str, StreamInfo] = MappingProxyType({
    "x_t": StreamInfo(label="what the model sees", kind="state", decodable=True, live=True),
    "x0_hat": StreamInfo(label="what it predicts", kind="clean", decodable=True, live=True),
    "eps_hat": StreamInfo(label="the noise it finds", kind="noise"),
    "x0_uncond": StreamInfo(label="without the prompt", kind="clean", decodable=True, live=True, absent="x0_hat"),
    "x0_cond": StreamInfo(label="with the prompt", kind="clean", decodable=True, live=True, absent="x0_hat"),
    "eps_uncond": StreamInfo(label="the noise without the prompt", kind="noise", kept=False, absent="zeros"),
    "eps_cond": StreamInfo(label="the noise with the prompt", kind="noise", kept=False, absent="zeros"),
    "attention": StreamInfo(label="where each word is looked at", kind="map", absent="zeros"),
    "clip_gradient": StreamInfo(label="where CLIP pulls", kind="gradient", live=True, absent="zeros"),
})

# The streams of every run.
ALWAYS = tuple(name for name, info in STREAMS.items() if info.absent is None)
