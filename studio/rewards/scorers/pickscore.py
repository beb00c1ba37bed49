"""PickScore: a CLIP-H that was taught which of two pictures people picked (Kirstain et al. 2023, arXiv:2305.01569).

    score = exp(logit_scale) cos(picture, prompt)
"""

from pathlib import Path

from studio.rewards.contract import RewardInfo, RewardSource, Score
from studio.rewards.scorers.clip import clip_at, cosine_score

__all__ = ["OTHERS", "PROCESSOR", "REWARDS"]

# Its own repository has neither tokenizer nor processor.
PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


def load(source: RewardSource) -> Score:
    """Raises ModelUnavailable."""
    here = (Path(source.place) / "preprocessor_config.json").is_file()
    clip = clip_at(source, "" if here else PROCESSOR)
    return cosine_score(clip, float(clip.network.logit_scale.float().exp()))


OTHERS = RewardInfo(label="PickScore", about="Which of two pictures people would pick, by the CLIP of a folder or Hub id.", load=load, size_mib=3_800)
REWARDS: dict[str, RewardInfo] = {
    "yuvalkirstain/PickScore_v1": RewardInfo(
        label="PickScore", about="Trained on half a million choices between two pictures; only differences mean something.", load=load,
        source="yuvalkirstain/PickScore_v1", size_mib=3_800,
    ),
}
