"""Rewards: how good a picture is for a prompt, as a number.

    reward = load_reward("toybox-clip")
    reward(images, prompts)                    # (B, 3, H, W) in [-1, 1], a prompt each -> (B,)

REWARDS is the menu: every file of studio.rewards.scorers adds its entries. "KIND:PLACE" is a scorer of that kind from another folder, file or
Hub id ("clip:openai/clip-vit-large-patch14"); the folder of a reward that was trained here is a name too.
"""

from studio.rewards.contract import Reward, RewardInfo, RewardSource
from studio.rewards.registry import KINDS, REWARDS, load_reward, reward_info, trained_rewards

__all__ = ["KINDS", "REWARDS", "Reward", "RewardInfo", "RewardSource", "load_reward", "reward_info", "trained_rewards"]
