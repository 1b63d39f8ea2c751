"""Models: build them by name, with or without weights, and find the preprocessing they expect."""
