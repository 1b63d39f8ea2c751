"""History: the steps that edited a model, in memory and as data."""

from surgery.history.history import History as History
from surgery.history.history import Step as Step
