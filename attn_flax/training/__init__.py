"""Training: what a config describes, the steps, the loop and the run folder."""
