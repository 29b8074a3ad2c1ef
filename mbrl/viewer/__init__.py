"""Trajectories and control loops in the browser, by viser: ``pip install "mbrl-control[view]"``.

:func:`view_trajectory` plays what was recorded, :func:`view_control` runs what acts, with a control for every field of its
planner. Both serve a page at ``http://<host>:<port>`` and, with ``block=True``, return when the page is closed by Ctrl-C. A
command line would end in one of::

    view_trajectory(read_trajectories(path), task, host=host, port=port)
    view_control(task, MPC(task.problem(model), planner), host=host, port=port, speed=speed)

and turn the errors they raise before the page is there (ModuleNotFoundError without viser, OSError for an address that cannot be
served, ValueError and TypeError for what does not fit) into one line.
"""

from mbrl.viewer.control import view_control
from mbrl.viewer.server import Viewer
from mbrl.viewer.trajectory import view_trajectory

__all__ = ["Viewer", "view_control", "view_trajectory"]
