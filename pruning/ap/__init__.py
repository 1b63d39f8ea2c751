"""AP: beside the weights that a base pruner cuts, those that keep neurons inactive."""
