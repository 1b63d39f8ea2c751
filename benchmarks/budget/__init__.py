"""Under a budget: what networks that `surgery.choose` made faster have lost, and what choosing costs."""
