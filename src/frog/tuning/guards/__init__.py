"""Guards: they watch a run, and act before it degrades.

guard            what a guard is, the registry
health           finite numbers, sizes of steps, losses
scale_collapse   the scale of one matrix against the others'
over_training    alpha of the changed matrices
subspaces        the leading directions, and holding them (rotation)
change           spectral share and intruder dimensions of the change
watch            calls them, acts, keeps account; certify makes the certificate
"""

from frog.tuning.guards.change import ShapeOfChange
from frog.tuning.guards.guard import AUTO, GUARDS, Guard, Watcher, guard, guards_from
from frog.tuning.guards.health import Health
from frog.tuning.guards.over_training import OverTraining
from frog.tuning.guards.reading import Reading
from frog.tuning.guards.scale_collapse import ScaleCollapse
from frog.tuning.guards.subspaces import Subspaces

__all__ = [
    "AUTO",
    "GUARDS",
    "Guard",
    "Health",
    "OverTraining",
    "Reading",
    "ScaleCollapse",
    "ShapeOfChange",
    "Subspaces",
    "Watcher",
    "guard",
    "guards_from",
]
