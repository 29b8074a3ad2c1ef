"""Search: shortest paths in graphs and grids, and trees that explore the states of a system."""

from planners.search.graph_search import Graph, shortest_path
from planners.search.grid import GridGraph
from planners.search.paths import Path
from planners.search.rrt import RRT

__all__ = ["RRT", "Graph", "GridGraph", "Path", "shortest_path"]
