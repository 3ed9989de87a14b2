"""What the configurations choose from."""
