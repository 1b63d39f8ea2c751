"""NNCF: AP combined with `nncf.prune` by magnitude, whose schedulers recompute all masks at every step.

Example::

    mine = nncf.cut(model, before, count=100)
    for epoch in ...:
        scheduler.step()
        hosts.commit(model, mine)
        train(model)

NNCF's ratio does not include AP's cut, which comes on top of it.
"""

from pruning.hosts.remasking import RemaskingHost
from pruning.masks.host_masks import nncf_masks

__all__ = ["cut"]

cut = RemaskingHost(nncf_masks).cut
