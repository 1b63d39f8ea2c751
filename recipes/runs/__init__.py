"""Runs: run a recipe on data, and write the result to a folder."""
