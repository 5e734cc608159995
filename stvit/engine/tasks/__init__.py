"""What a run's task decides: its data, its loss, and the metric that chooses the best checkpoint."""

from __future__ import annotations

from stvit.engine.tasks.moving_mnist import MovingMNISTPrediction, predictor_settings
from stvit.engine.tasks.task import Task

__all__ = ["MovingMNISTPrediction", "Task", "predictor_settings"]
