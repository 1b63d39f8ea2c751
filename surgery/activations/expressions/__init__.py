"""Expressions: activation functions as trees of named operators, which can be printed, parsed, compared and trained."""
