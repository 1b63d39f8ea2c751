"""Runs: a recipe carried out on data, and the folder it leaves."""
