"""Pruners: which weights are cut, and by which criterion."""
