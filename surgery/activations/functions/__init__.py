"""Functions: the activations that torch does not have, as modules, one family a file."""
