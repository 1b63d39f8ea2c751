"""AP: Activate-while-Pruning, which prunes weights that keep neurons inactive, in addition to a base pruner."""
