"""What is compiled in one precision: half the build, the same numbers, and a sentence for tensors of the other."""

import functools
import json

import pytest
import torch
from controllers import compiled

import mpcgen
from mpcgen.build import build
from mpcgen.errors import BuildError, DtypeError, StaleBuildError
from mpcgen.runtime.loading import load


def test_one_precision_computes_the_same_and_refuses_the_other(pendulum):
    alone = compiled(pendulum.spec, (torch.float32,))
    x0 = pendulum.starts(5, 0)
    assert alone.CONTROLLER.dtypes == ("float32",)
    for batch in (5, 1):
        assert torch.equal(alone.MPC()(x0[:batch].float()).u, pendulum.mpc()(x0[:batch].float()).u)
    with pytest.raises(
        DtypeError, match=r"x0 is torch\.float64, but this module was compiled for float32 alone"
    ):
        alone.MPC()(x0)
    with pytest.raises(DtypeError, match="compiled for float32 alone"):
        torch.func.vmap(alone.MPC())(x0)


def test_cudas_kernels_in_one_precision(pendulum):
    module = mpcgen.compile(pendulum.spec, targets=("cuda-host",), dtypes=(torch.float32,))
    x0 = pendulum.starts(3, 0).float()
    torch.testing.assert_close(module.MPC()(x0).u, pendulum.mpc()(x0).u, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtypes", ["float16", (), ("float64", "half"), None, (torch.int32,)])
def test_what_is_no_precision_is_refused(pendulum, dtypes, tmp_path):
    for function in (mpcgen.compile, functools.partial(build, directory=tmp_path)):
        with pytest.raises(BuildError, match=r"dtypes=.*expected torch.float64, torch.float32 or both"):
            function(pendulum.spec, dtypes=dtypes)
    assert not list(tmp_path.iterdir())


def test_a_package_says_in_its_manifest_what_it_was_compiled_in(pendulum, tmp_path):
    result = build(pendulum.spec, tmp_path, dtypes=torch.float32)
    manifest = result.path / "build.json"
    fields = json.loads(manifest.read_text())
    assert fields["dtypes"] == ["float32"]
    assert build(pendulum.spec, tmp_path, dtypes="float32").up_to_date
    manifest.write_text(json.dumps({**fields, "dtypes": ["float8"]}))
    with pytest.raises(StaleBuildError, match="dtypes is"):
        load(str(result.path / "__init__.py"), "pendulum", fields["source_digest"])
    assert not build(pendulum.spec, tmp_path, dtypes="float32").up_to_date
