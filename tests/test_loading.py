"""Loading a built package: everything that does not fit is refused with a sentence before it is linked."""

import hashlib
import json
import re
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
from toy_package import toy_rendered, toy_spec

from mpcgen.build import driver
from mpcgen.codegen.rendered import CDEF_BEGIN, Rendered
from mpcgen.errors import InternalError, StaleBuildError
from mpcgen.runtime import cpu, loading

NAME = "toy"
DIGEST = toy_rendered().digest


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def package(tmp_path, monkeypatch, cache_folder):
    """A freshly installed package, not yet loaded."""
    monkeypatch.setenv("MPCGEN_CACHE_DIR", str(cache_folder))
    monkeypatch.setattr(driver, "render_spec", lambda spec: toy_rendered())
    return driver.build(toy_spec(), tmp_path).path


def load(package, name=NAME, digest=DIGEST):
    return loading.load(str(package / "__init__.py"), name, digest)


def change_manifest(package, **fields):
    path = package / "build.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_library_gives_functions_manifest_and_path(package):
    library = load(package)
    assert library.lib.toy_scale_f64_single(2.0) == 0.2
    assert library.manifest["problem"] == "toy"
    assert library.path == package / f"_toy{EXTENSION_SUFFIXES[0]}"


def test_loading_imports_neither_sympy_nor_cffis_builder(package):
    script = (
        f"import sys; from mpcgen.runtime import loading; loading.load({str(package / '__init__.py')!r}, "
        f"'toy', '{DIGEST}')\n"
        "print([m for m in ('sympy', 'torch', 'cffi', 'mpcgen.build') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_text_without_a_build_asks_for_the_build(package):
    (package / "build.json").unlink()
    with pytest.raises(StaleBuildError, match=r"toy is not built yet.*mpcgen build .* -o"):
        load(package)


def test_missing_extension_asks_for_the_build(package):
    (package / f"_toy{EXTENSION_SUFFIXES[0]}").unlink()
    with pytest.raises(StaleBuildError, match=r"has no _toy.*mpcgen build"):
        load(package)


def test_build_for_another_python_names_both(package):
    extension = package / f"_toy{EXTENSION_SUFFIXES[0]}"
    extension.rename(package / "_toy.cpython-399-x86_64-linux-gnu.so")
    with pytest.raises(StaleBuildError) as caught:
        load(package)
    assert ".cpython-399-x86_64-linux-gnu.so" in str(caught.value)
    assert EXTENSION_SUFFIXES[0] in str(caught.value)


def test_newer_text_than_extension_is_stale(package):
    newer = toy_rendered("0.7")
    for file, text in newer.files:
        (package / file).write_text(text)
    with pytest.raises(StaleBuildError, match=r"stale.*compiled from other C text"):
        load(package, digest=newer.digest)


@pytest.mark.parametrize("file", ["toy.c", "toy.h", "__init__.py"])
def test_hand_edited_text_is_named(package, file):
    with (package / file).open("a") as text:
        text.write("\n")
    with pytest.raises(StaleBuildError, match=f"{file} is not what was built"):
        load(package)


def test_missing_text_is_named(package):
    (package / "toy.h").unlink()
    with pytest.raises(StaleBuildError, match=r"toy\.h is missing"):
        load(package)


def test_truncated_extension_is_refused(package):
    extension = package / f"_toy{EXTENSION_SUFFIXES[0]}"
    extension.write_bytes(extension.read_bytes()[:1000])
    with pytest.raises(StaleBuildError, match="is not what was built"):
        load(package)


def test_build_of_another_problem_is_foreign(package):
    change_manifest(package, problem="cartpole")
    with pytest.raises(StaleBuildError, match=r"foreign.*'toy'.*'cartpole'"):
        load(package)


def test_build_for_another_interface_names_both_versions(package):
    change_manifest(package, abi=loading.ABI + 1, mpcgen="9.9")
    with pytest.raises(
        StaleBuildError, match=f"mpcgen 9.9 with interface {loading.ABI + 1}.*interface {loading.ABI}"
    ):
        load(package)


def test_other_argument_structs_are_another_interface():
    """Else an old package is filled in by names that it lacks, instead of being refused."""
    templates = Path(__file__).parent.parent / "templates"
    members = (templates / "c" / "solve_arguments.h.j2").read_text()
    of_gradients = (templates / "c" / "gradient_arguments.h.j2").read_text().replace("{{ number }}", "double")
    header = (templates / "c" / "interface.h.j2").read_text() + f"typedef struct {{ {members} }} solve;"
    header = header.replace("{{ gradient_members }}", of_gradients)
    # What the libraries of a process share must be the same in all of them.
    (pool,) = re.findall(
        r"typedef struct \{[^{}]*\} thread_pool;", (templates / "runtime" / "mpcgen_parallel.h").read_text()
    )
    header = re.sub(r"\{%.*?%\}|\{\{.*?\}\}", "", header + pool)  # whose braces would end a struct
    structs = re.findall(
        r"typedef struct \{(.*?)\}", re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL), re.DOTALL
    )
    fields = [field.split() for struct in structs for field in struct.split(";")]
    digest = hashlib.sha256(repr(fields).encode()).hexdigest()[:16]
    # Where this fails, raise ABI by one and write both here.
    assert (loading.ABI, digest) == (17, "9bad95ce4e4f1add")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"digest"', '{"problem": "toy"}', "null", "3"])
def test_unreadable_manifest_is_a_stale_build(package, text):
    (package / "build.json").write_text(text)
    with pytest.raises(StaleBuildError, match=r"build\.json.*mpcgen build"):
        load(package)


def test_missing_cpu_feature_is_a_sentence_with_a_remedy(package, monkeypatch):
    change_manifest(package, target="x86-64-v4", cpu_features=list(cpu.X86_64_V4))
    monkeypatch.setattr(cpu, "cpu_features", lambda: frozenset(cpu.X86_64_V3))
    with pytest.raises(StaleBuildError) as caught:
        load(package)
    message = str(caught.value)
    assert "built for x86-64-v4, which needs avx512bw, avx512cd, avx512dq, avx512f, avx512vl" in message
    assert "this CPU has x86-64-v3 (AVX2)" in message
    assert "mpcgen build" in message and "--march x86-64-v3" in message


def test_rebuild_under_a_running_process_asks_for_a_restart(package, monkeypatch):
    load(package)
    monkeypatch.setattr(driver, "render_spec", lambda spec: toy_rendered("0.9"))
    driver.build(toy_spec(weight=3.0), package.parent)
    with pytest.raises(StaleBuildError, match="restart Python"):
        load(package, digest=toy_rendered("0.9").digest)


def test_extension_without_its_glue_does_not_load(package):
    extension = f"_toy{EXTENSION_SUFFIXES[0]}"
    (package / extension).write_bytes(b"not a shared library")
    files = json.loads((package / "build.json").read_text())["files"]
    change_manifest(package, files={**files, extension: loading.file_sha256(package / extension)})
    with pytest.raises(StaleBuildError, match="does not load on this machine"):
        load(package)


def test_rendered_package_without_markers_is_our_bug():
    toy = toy_rendered()
    header = toy.header.replace(CDEF_BEGIN, "")
    files = tuple((file, header if file == "toy.h" else text) for file, text in toy.files)
    with pytest.raises(InternalError, match=r"toy\.h lacks the lines"):
        _ = Rendered("toy", files, header, toy.source, small=True).cdef
