"""The cases of examples/trajectory_optimization.py: one module each, with a function ``run(folder, tiny) -> bool``."""
