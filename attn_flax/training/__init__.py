"""Training: experiments from configs, training steps, the loop, checkpoints and run folders."""
