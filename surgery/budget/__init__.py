"""Budget: which edits pay: what each saves, what each does to the predictions, and the plan of each budget."""
