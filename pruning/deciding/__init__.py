"""A pruning decision: which weights stay. Scores by a criterion, shares by an allocation, masks as the result."""
