"""Serialization: save an edited model as safetensors and a small data file, and load it."""
