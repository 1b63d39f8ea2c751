"""Drawing: the activation calls of a network on one page, before and after an edit."""
