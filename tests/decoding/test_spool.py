"""The store of tensors that wait: what is let go of leaves memory and disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from decodedrift.decoding.spool import Spool


def test_a_sort_is_dropped_from_memory_and_from_disk(tmp_path: Path) -> None:
    tensor = torch.arange(4.0)
    with Spool(2 * 16, str(tmp_path)) as spool:
        for n in range(3):  # two of them in memory
            spool.put(("a", n), tensor + n)
        spool.put(("b", 1), tensor - 1)
        spool.put(("b", 3), tensor - 3)
        assert len(list(tmp_path.rglob("[0-9]*"))) == 3
        spool.drop("a")
        assert len(list(tmp_path.rglob("[0-9]*"))) == 2
        for key in (("a", 0), ("a", 2)):
            with pytest.raises(KeyError):
                spool.get(key)
        spool.put(("c", 0), tensor * 2)  # in the room that is free again
        spool.put(("c", 1), tensor * 3)
        spool.put(("c", 2), tensor * 4)  # and no file is written over
        for key, value in ((("b", 1), tensor - 1), (("b", 3), tensor - 3), (("c", 2), tensor * 4)):
            assert torch.equal(spool.get(key), value)
    assert not list(tmp_path.rglob("[0-9]*"))
