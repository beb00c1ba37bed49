"""The menu of schedulers: which rule turns the model's prediction at one timestep into the next state.

"ddpm" and "ddim" are the studio's own (studio.diffusion); the others are diffusers' classes, driven by the same loop.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["SCHEDULERS", "SchedulerInfo"]


@dataclass(frozen=True, kw_only=True)
class SchedulerInfo:
    """A menu entry. `diffusers_class` is None for the studio's own; `stochastic` ones draw noise at every step."""

    label: str
    about: str
    diffusers_class: str | None = None
    config: Mapping[str, object] = field(default_factory=dict)
    stochastic: bool = False
    takes_eta: bool = False
    min_steps: int = 1


SCHEDULERS: dict[str, SchedulerInfo] = {
    "ddpm": SchedulerInfo(label="DDPM", about="The original: fresh noise at every step.", stochastic=True),
    "ddim": SchedulerInfo(label="DDIM", about="Deterministic at eta 0, DDPM at eta 1.", takes_eta=True),
    "euler": SchedulerInfo(label="Euler", about="First-order ODE step in sigma.", diffusers_class="EulerDiscreteScheduler"),
    "euler_ancestral": SchedulerInfo(
        label="Euler ancestral", about="Euler, then fresh noise.", diffusers_class="EulerAncestralDiscreteScheduler", stochastic=True,
    ),
    "heun": SchedulerInfo(label="Heun", about="Second order: two model calls a step.", diffusers_class="HeunDiscreteScheduler"),
    "dpm2": SchedulerInfo(label="DPM2 (Karras)", about="Midpoint rule: two model calls a step.", diffusers_class="KDPM2DiscreteScheduler", min_steps=2),
    "dpm2_ancestral": SchedulerInfo(
        label="DPM2 ancestral", about="Midpoint rule with fresh noise.", diffusers_class="KDPM2AncestralDiscreteScheduler", stochastic=True, min_steps=2,
    ),
    "lms": SchedulerInfo(label="LMS", about="Linear multistep: remembers four slopes.", diffusers_class="LMSDiscreteScheduler"),
    "pndm": SchedulerInfo(label="PNDM", about="Pseudo linear multistep.", diffusers_class="PNDMScheduler", config={"skip_prk_steps": True}, min_steps=2),
    "dpm++_2m": SchedulerInfo(label="DPM++ 2M", about="Second-order multistep on x0_hat.", diffusers_class="DPMSolverMultistepScheduler"),
    "dpm++_2m_sde": SchedulerInfo(
        label="DPM++ 2M SDE", about="The same with fresh noise.", diffusers_class="DPMSolverMultistepScheduler",
        config={"algorithm_type": "sde-dpmsolver++"}, stochastic=True,
    ),
    "dpm++_2s": SchedulerInfo(label="DPM++ 2S", about="Second-order singlestep on x0_hat.", diffusers_class="DPMSolverSinglestepScheduler", min_steps=2),
    "unipc": SchedulerInfo(label="UniPC", about="Predictor and corrector from one model call.", diffusers_class="UniPCMultistepScheduler"),
    "deis": SchedulerInfo(label="DEIS", about="Exponential integrator, multistep.", diffusers_class="DEISMultistepScheduler"),
    "sa": SchedulerInfo(label="SA-Solver", about="Stochastic Adams: multistep with fresh noise.", diffusers_class="SASolverScheduler", stochastic=True),
}
