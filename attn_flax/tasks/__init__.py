"""Tasks, what networks learn: losses and scores, one file or folder for each task."""
