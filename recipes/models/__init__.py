"""Models: built by name, with weights or without, and the preprocessing they expect."""
