"""Terrain: features on a grid, costs of them that can be learned, and the cost of driving there."""

from planners.terrain.cost_map import CostMap
from planners.terrain.feature_grid import FeatureGrid
from planners.terrain.terrain_cost import ExponentialTerrain, LinearTerrain, TerrainCost

__all__ = ["CostMap", "ExponentialTerrain", "FeatureGrid", "LinearTerrain", "TerrainCost"]
