"""Cost: what a network costs, counted or measured, and what edits of its blocks and sites save."""
