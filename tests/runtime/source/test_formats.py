"""Files of lab CT and microscopes: the same pixels whatever they lie in, and sentences for what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from volume_files import EDGES, WRITERS, Volume

import importlib
O={".mhd":"metaimage",".mha":"metaimage",".nrrd":"nrrd",".nhdr":"nrrd",".vgi":"vgi",".vol":"vgi",".mrc":"mrc",".txm":"txm",".am":"amira",".czi":"czi",".nii":"nifti",".gz":"nifti",".raw":"raw"}
from matseg_runtime.source.base import SourceOptions
def open_source(loc, options=None):
    k=O[Path(loc).suffix]
    return getattr(importlib.import_module("matseg_runtime.source.formats."+k),"open_"+k)(str(loc),options or SourceOptions())

@pytest.mark.parametrize("dtype",["u1","<u2",">u2","f4"])
@pytest.mark.parametrize("name",WRITERS)
def test_x(tmp_path,name,dtype):
    v=(np.arange(5*18*22)%251).reshape(5,18,22).astype(dtype)
    WRITERS[name](tmp_path/name,v)
    s=open_source(tmp_path/name)
    assert len(s.slices)==5
    for i in (3,0,4,1):
        np.testing.assert_array_equal(s.read(i,i+1)[0],v[i])
    np.testing.assert_array_equal(np.stack(s.read(1,4)),v[1:4])
    print(s.voxel_size(), s.warnings())
    vs=s.voxel_size()
    print(vs)
    s.close()
