"""Drawing pictures: the loop, its samplers and guidance, the events that come of it and the trajectory that is kept."""
