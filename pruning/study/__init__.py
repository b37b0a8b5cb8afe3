"""Many runs: studies and searches carried out, compared and reported."""
