"""Code: the calls in the source of a method, and how some of them get another callee."""
