"""Pruners: choose the weights to cut, by a criterion."""
