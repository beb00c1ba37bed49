"""The schedules on which an identity of one step is tried: what a step is made of does not depend on where its betas come from.

Each strains the arithmetic in a way of its own: "cosine" has betas up to 0.999, "karras" comes within 4e-6 of the clean
picture, "flow" ends in pure noise, at an SNR of zero. What a schedule itself is, tests/process/test_schedules.py asks of all.
"""

THREE_SCHEDULES = ("cosine", "karras", "flow")
