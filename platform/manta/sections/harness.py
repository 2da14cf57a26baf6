"""The vocabulary of `evaluate.harness`: tasks in the format of lm-evaluation-harness, on local data."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from manta.sections.base import Input, NonNegative, Positive, Section

TaskFolder = Annotated[str, Input(("tasks",))]
TaskName = Annotated[str, Field(min_length=1)]


class Harness(Section):
    """Task files of lm-evaluation-harness (Gao et al. 2021); the package lm_eval reads them and scores the answers."""

    folder: TaskFolder = Field(description="folder with task files (*.yaml) and the data that they name")
    tasks: list[TaskName] = Field(min_length=1, description="names of tasks, groups or tags in that folder")
    fewshot: NonNegative | None = Field(None, description="examples before each question; none: as each task says")
    fewshot_seed: NonNegative = Field(1234, description="which examples those are; lm_eval's own default")
    limit: Positive | None = Field(None, description="of each task the first so many questions; none: all")
    max_length: Positive | None = Field(None, description="tokens of a question with its answer; none: all positions")
    chat_template: bool = Field(False, description="put questions as the model's chat template does")
    allow_python: bool = Field(False, description="run the Python that task files name: only for files that you trust")
