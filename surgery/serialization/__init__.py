"""Serialization: an edited model as safetensors and one small data file, and back."""
