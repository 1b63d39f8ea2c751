"""Predictions: what networks predict for images, and how far an edit or another training moves that."""
