"""Code: find the calls in the source of a method, and rewrite some of them to call another function."""
