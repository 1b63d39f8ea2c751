"""Data flow: which operations made a tensor from which others, also through views and in-place writes."""
