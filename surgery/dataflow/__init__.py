"""Data flow: which operations computed a tensor from which others, also through views and in-place writes."""
