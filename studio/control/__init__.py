"""What the ControlNet panel needs beyond sampling: annotators, exact maps of drawn scenes, and how well a picture obeys its map."""
