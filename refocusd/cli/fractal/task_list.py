"""The tasks from which Fractal's tools make `refocusd/__FRACTAL_MANIFEST__.json`."""

from __future__ import annotations

from fractal_task_tools.task_models import CompoundTask

AUTHORS = "refocusd"
TASK_LIST = [
    CompoundTask(
        name="Refocus",
        executable_init="cli/fractal/init_refocus.py",
        executable="cli/fractal/compute_refocus.py",
        meta_init={"cpus_per_task": 1, "mem": 4000},
        meta={"cpus_per_task": 1, "mem": 4000},
        input_types={"refocused": False},
        output_types={"refocused": True},
        category="Image Processing",
        tags=["Preprocessing", "2D", "3D", "Refocusing"],
    )
]
