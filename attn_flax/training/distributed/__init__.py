"""The processes of one run: how they join, agree and stop together."""
