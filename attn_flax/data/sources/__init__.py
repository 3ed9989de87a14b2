"""Where datasets come from, one folder for each kind."""
