"""Execution of the tasks of a study, one after the other in this process."""

from __future__ import annotations

from aradals.errors import InputError, OutputError
from aradals.pipeline.study.tasks import Task, in_order
from aradals.pipeline.study.work import run_task
from aradals.pipeline.study.workspace import Workspace


class SerialExecutor:
    """Executor that does each task once, and remembers the failed ones."""

    def __init__(self, space: Workspace) -> None:
        self.space = space
        self._outcomes: dict[str, InputError | None] = {}

    def finish(self, goal: Task) -> None:
        """Do a task and all tasks that it needs.

        Raises:
            InputError: a task failed, now or before; tasks that need a failed task are not tried.
            OutputError: a file cannot be written, which affects all tasks.
        """
        for task in in_order([goal]):
            if task.digest not in self._outcomes:
                self._outcomes[task.digest] = self._attempt(task)
            if failure := self._outcomes[task.digest]:
                raise failure

    def _attempt(self, task: Task) -> InputError | None:
        try:
            run_task(task.record, self.space)
        except OutputError:
            raise
        except InputError as error:
            # The traceback would keep the model in memory.
            error.__cause__ = error.__context__ = error.__traceback__ = None
            return error
        return None
