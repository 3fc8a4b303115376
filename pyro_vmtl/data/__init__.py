"""What goes in: task sets, how they are split and batched, and the built-in sets."""

from pyro_vmtl.data.batch import Batch, Views
from pyro_vmtl.data.batches import TaskBatches
from pyro_vmtl.data.clusters import cluster_weights, clusters
from pyro_vmtl.data.columns import TableColumns
from pyro_vmtl.data.digits import (
    ANGLES,
    DOMAINS,
    IMAGE_SHAPE,
    digit_domains,
    relabelled_digits,
    rotated_digits,
)
from pyro_vmtl.data.features import extract_features
from pyro_vmtl.data.image_sets import (
    domainnet,
    image_domains,
    imageclef,
    office_caltech,
    office_home,
)
from pyro_vmtl.data.image_splits import ImageReport, ImageSplits
from pyro_vmtl.data.images import ImageData, ImageTransform, read_images
from pyro_vmtl.data.mnist import rotated_mnist
from pyro_vmtl.data.networks import FrozenNetwork, frozen_network
from pyro_vmtl.data.preparation import TablePreparation
from pyro_vmtl.data.splits import TaskSplits, shift_categories, split_tasks
from pyro_vmtl.data.summaries import TaskSummary, common_columns, summary
from pyro_vmtl.data.sums import ColumnSums, TargetSums
from pyro_vmtl.data.tables import read_rows, read_table, split_table
from pyro_vmtl.data.task_set import TaskSet
from pyro_vmtl.data.views import attention_views

__all__ = [
    "ANGLES",
    "DOMAINS",
    "IMAGE_SHAPE",
    "Batch",
    "ColumnSums",
    "FrozenNetwork",
    "ImageData",
    "ImageReport",
    "ImageSplits",
    "ImageTransform",
    "TableColumns",
    "TablePreparation",
    "TargetSums",
    "TaskBatches",
    "TaskSet",
    "TaskSplits",
    "TaskSummary",
    "Views",
    "attention_views",
    "cluster_weights",
    "clusters",
    "common_columns",
    "digit_domains",
    "domainnet",
    "extract_features",
    "frozen_network",
    "image_domains",
    "imageclef",
    "office_caltech",
    "office_home",
    "read_images",
    "read_rows",
    "read_table",
    "relabelled_digits",
    "rotated_digits",
    "rotated_mnist",
    "shift_categories",
    "split_table",
    "split_tasks",
    "summary",
]
