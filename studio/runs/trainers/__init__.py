"""The trainers as data: their menu, the dataclasses of their options, presets. The programs themselves lie in trainers/."""

from studio.runs.trainers.registry import TRAINERS, TrainerInfo, options_table, require_kinds, resolve_options

__all__ = ["TRAINERS", "TrainerInfo", "options_table", "require_kinds", "resolve_options"]
