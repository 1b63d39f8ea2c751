"""History: the steps that made an edited model, in memory and as data."""

from surgery.history.history import History as History
from surgery.history.history import Step as Step
