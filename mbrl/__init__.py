"""Learning: tasks, environments, training and evaluation."""
