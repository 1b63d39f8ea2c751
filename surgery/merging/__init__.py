"""Merging: what lies between two nonlinearities and is linear becomes one layer."""
