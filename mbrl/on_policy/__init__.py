"""Policy optimization from what the policy itself has just done."""
