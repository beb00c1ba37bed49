"""The names of what a diffusion network predicts, of the variance of its steps, and of its losses; data that needs no torch."""

__all__ = ["MEAN_TYPES", "VAR_TYPES", "LOSS_TYPES"]

MEAN_TYPES = ("epsilon", "sample", "v_prediction", "previous")
VAR_TYPES = ("fixed_small", "fixed_large", "learned", "learned_range")
LOSS_TYPES = ("mse", "rescaled_mse", "kl", "rescaled_kl")
