"""What goes in: task sets, how they are split and batched, and the built-in sets."""

from pyro_vmtl.data.batches import Batch, TaskBatches
from pyro_vmtl.data.clusters import cluster_weights, clusters
from pyro_vmtl.data.digits import ANGLES, DOMAINS, IMAGE_SHAPE, digit_domains, rotated_digits
from pyro_vmtl.data.splits import TaskSplits, split_tasks
from pyro_vmtl.data.task_set import TaskSet

__all__ = [
    "ANGLES",
    "DOMAINS",
    "IMAGE_SHAPE",
    "Batch",
    "TaskBatches",
    "TaskSet",
    "TaskSplits",
    "cluster_weights",
    "clusters",
    "digit_domains",
    "rotated_digits",
    "split_tasks",
]
