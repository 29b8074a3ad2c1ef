"""What goes wrong in a training."""


class ResumeWarning(UserWarning):
    """A resumed run goes on, but not as the uninterrupted one would have."""


class TrainingError(RuntimeError):
    """A training cannot go on, for instance because a loss or a weight is not finite; the message says what to change."""
