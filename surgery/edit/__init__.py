"""Edit: how each edit of a plan is carried out, written into the model, proved and undone."""
