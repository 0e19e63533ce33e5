"""CrowdPose (Li et al. 2019, "CrowdPose: Efficient Crowded Scenes Pose Estimation and a New Benchmark"): its annotation files.

They are COCO keypoint files of 14 joints, except for the differences in `CROWDPOSE`. As in COCO, `iscrowd` marks regions of many persons,
and persons without counted joints are ignored by the evaluation; `num_keypoints` counts neither head nor neck
(`Skeleton.uncounted`). There is no segmentation, so ignore regions are boxes.
"""

from __future__ import annotations

from functools import partial

from components.datasets.reader import Reader
from components.datasets.readers.coco import CocoForm, read

CROWDPOSE = CocoForm(
    joint_names={"head_top": "head"},
    area_of_box=0.53,  # the authors' evaluation always uses this share of the box as the OKS scale
    crowd_index="crowdIndex",
)
READER = Reader("crowdpose", partial(read, form=CROWDPOSE), gives=("crowd_index",))
