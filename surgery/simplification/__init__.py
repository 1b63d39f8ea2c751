"""Simplification: learned functions become the cheapest ones that are equal within a tolerance."""
