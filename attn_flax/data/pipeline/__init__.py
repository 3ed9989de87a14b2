"""Input pipelines: batches of a split, on the device."""
