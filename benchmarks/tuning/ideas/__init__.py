"""Ideas that change a run beside the choice of weights."""
