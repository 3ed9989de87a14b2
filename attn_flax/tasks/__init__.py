"""What a network learns: losses and scores, one file or folder for each task."""
