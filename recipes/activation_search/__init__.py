"""Search over activation functions: a space of expressions, engines that pick from it, and what came of it."""
