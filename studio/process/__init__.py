"""The mathematics of diffusion: schedules, the process of one step, noising, and the table of schedulers. numpy, and torch where it is met."""
