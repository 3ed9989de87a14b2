"""Training: what a config stands for, the steps, the loop and the run folder."""
