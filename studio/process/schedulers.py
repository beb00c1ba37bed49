"""The menu of schedulers: which rule turns the model's prediction at one timestep into the next state.

"ddpm" and "ddim" are the studio's own (studio.process.diffusion); the others are diffusers' classes, driven by the same loop.
Left out on purpose: those made for distilled models (LCM, TCD) or for EDM's preconditioning, which another kind of network
needs; those that need torchsde; and the third-order SDE of DPM++, whose pictures of a known
Gaussian keep a deviation 10 % too large however many steps it takes (tests/sampling/test_sampling.py asks that of every entry).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["FLOW_CLASSES", "SCHEDULERS", "SchedulerInfo"]


@dataclass(frozen=True, kw_only=True)
class SchedulerInfo:
    """A menu entry. `diffusers_class` is None for the studio's own; `stochastic` ones draw noise at every step.

    sigmas: the spacings of noise levels that it offers beside its own; options.sigmas chooses one.
    """

    label: str
    about: str
    diffusers_class: str | None = None
    config: Mapping[str, object] = field(default_factory=dict)
    stochastic: bool = False
    takes_eta: bool = False
    min_steps: int = 1
    sigmas: tuple[str, ...] = ()


# Karras et al. 2022 (arXiv:2206.00364, eq. 5); evenly in log sigma; quantiles of a beta distribution (arXiv:2407.12173).
SIGMAS = ("karras", "exponential", "beta")

SCHEDULERS: dict[str, SchedulerInfo] = {
    "ddpm": SchedulerInfo(label="DDPM", about="The original: fresh noise at every step.", stochastic=True),
    "ddim": SchedulerInfo(label="DDIM", about="Deterministic at eta 0, DDPM at eta 1.", takes_eta=True),
    "euler": SchedulerInfo(label="Euler", about="First-order ODE step in sigma.", diffusers_class="EulerDiscreteScheduler", sigmas=SIGMAS),
    "euler_ancestral": SchedulerInfo(
        label="Euler ancestral", about="Euler, then fresh noise.", diffusers_class="EulerAncestralDiscreteScheduler", stochastic=True,
    ),
    "heun": SchedulerInfo(label="Heun", about="Second order: two model calls a step.", diffusers_class="HeunDiscreteScheduler", sigmas=SIGMAS),
    "dpm2": SchedulerInfo(
        label="DPM2 (Karras)", about="Midpoint rule: two model calls a step.", diffusers_class="KDPM2DiscreteScheduler", sigmas=SIGMAS, min_steps=2,
    ),
    "dpm2_ancestral": SchedulerInfo(
        label="DPM2 ancestral", about="Midpoint rule with fresh noise.", diffusers_class="KDPM2AncestralDiscreteScheduler", sigmas=SIGMAS,
        stochastic=True, min_steps=2,
    ),
    "lms": SchedulerInfo(label="LMS", about="Linear multistep: remembers four slopes.", diffusers_class="LMSDiscreteScheduler", sigmas=SIGMAS),
    "pndm": SchedulerInfo(label="PNDM", about="Pseudo linear multistep.", diffusers_class="PNDMScheduler", config={"skip_prk_steps": True}, min_steps=2),
    "dpm++_2m": SchedulerInfo(label="DPM++ 2M", about="Second-order multistep on x0_hat.", diffusers_class="DPMSolverMultistepScheduler", sigmas=SIGMAS),
    "dpm++_2m_sde": SchedulerInfo(
        label="DPM++ 2M SDE", about="The same with fresh noise.", diffusers_class="DPMSolverMultistepScheduler", sigmas=SIGMAS,
        config={"algorithm_type": "sde-dpmsolver++"}, stochastic=True,
    ),
    "dpm++_3m": SchedulerInfo(
        label="DPM++ 3M", about="Third-order multistep on x0_hat; for weak guidance or none.", diffusers_class="DPMSolverMultistepScheduler", sigmas=SIGMAS,
        config={"solver_order": 3},
    ),
    "dpm++_2s": SchedulerInfo(
        label="DPM++ 2S", about="Second-order singlestep on x0_hat.", diffusers_class="DPMSolverSinglestepScheduler", sigmas=SIGMAS, min_steps=2,
        config={"lower_order_final": True},
    ),
    "dpm++_2s_sde": SchedulerInfo(
        label="DPM++ 2S SDE", about="The same with fresh noise.", diffusers_class="DPMSolverSinglestepScheduler", sigmas=SIGMAS,
        config={"algorithm_type": "sde-dpmsolver++", "lower_order_final": True}, stochastic=True, min_steps=2,
    ),
    "dpm++_3s": SchedulerInfo(
        label="DPM++ 3S", about="Third-order singlestep on x0_hat; for weak guidance or none.", diffusers_class="DPMSolverSinglestepScheduler",
        sigmas=SIGMAS, config={"solver_order": 3, "lower_order_final": True}, min_steps=3,
    ),
    "unipc": SchedulerInfo(label="UniPC", about="Predictor and corrector from one model call.", diffusers_class="UniPCMultistepScheduler", sigmas=SIGMAS),
    "deis": SchedulerInfo(label="DEIS", about="Exponential integrator, multistep.", diffusers_class="DEISMultistepScheduler", sigmas=SIGMAS),
    "sa": SchedulerInfo(
        label="SA-Solver", about="Stochastic Adams: multistep with fresh noise.", diffusers_class="SASolverScheduler", sigmas=SIGMAS, stochastic=True,
    ),
}

# diffusers' classes that take the same step on a rectified flow; the studio's own DDIM needs none.
FLOW_CLASSES: dict[str, str] = {
    "euler": "FlowMatchEulerDiscreteScheduler", "heun": "FlowMatchHeunDiscreteScheduler", "dpm++_2m": "DPMSolverMultistepScheduler",
    "dpm++_3m": "DPMSolverMultistepScheduler", "dpm++_2m_sde": "DPMSolverMultistepScheduler", "dpm++_2s": "DPMSolverSinglestepScheduler",
    "unipc": "UniPCMultistepScheduler", "deis": "DEISMultistepScheduler", "sa": "SASolverScheduler",
}
