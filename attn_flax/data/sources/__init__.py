"""The sources of datasets, one folder for each kind."""
