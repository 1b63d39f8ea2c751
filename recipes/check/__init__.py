"""Check: what a recipe would do to a model and what would stop it, before any training."""
