"""Which names a problem and its symbols may have: valid in Python, C and CUDA, and unique."""

import difflib
import keyword
import sys
from collections.abc import Iterable

from mpcgen.errors import SpecError


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# C23, C++20 and the alternative operator spellings; a generated file is compiled as C and as C++ (CUDA).
_C_KEYWORDS = _words(
    """
    alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t char32_t
    class compl concept const const_cast consteval constexpr constinit continue co_await co_return co_yield
    decltype default delete do double dynamic_cast else enum explicit export extern false float for friend
    goto if inline int long mutable namespace new noexcept not not_eq nullptr operator or or_eq private
    protected public register reinterpret_cast requires restrict return short signed sizeof static
    static_assert static_cast struct switch template this thread_local throw true try typedef typeid typeof
    typeof_unqual typename union unsigned using virtual void volatile wchar_t while xor xor_eq
    """
)

# Functions, types and macros that generated text relies on, or that a compiler predefines.
_C_IDENTIFIERS = _words(
    """
    abs acos acosh asin asinh assert atan atan2 atanh cbrt ceil copysign cos cosh erf erfc exp exp2 expm1
    fabs fabsf floor fma fmax fmin fmod free hypot isfinite isinf isnan log log10 log1p log2 main malloc max
    memcpy memset min pow printf real round select signbit sin sincos sinh sqrt tan tanh trunc
    int8_t int16_t int32_t int64_t uint8_t uint16_t uint32_t uint64_t size_t ssize_t ptrdiff_t intptr_t
    uintptr_t bool_t
    EOF HUGE_VAL INFINITY M_E M_PI NAN NULL complex errno i386 imaginary linux stderr stdin stdout unix
    blockDim blockIdx gridDim threadIdx warpSize
    """
)

# Keyword arguments of the controller's call: a parameter of that name could not be passed.
_CALL_ARGUMENTS = _words(
    """
    x0 u_init horizon learn tol max_iterations hessian gradient on_unconverged threads self
    """
)

# A folder `generated/<name>` on the module path would hide these.
_MODULES = frozenset(sys.stdlib_module_names) | {"cffi", "mpcgen", "numpy", "torch"}


def check_problem_name(name: object) -> str:
    """Return ``name`` if it can name a package and prefix C functions, else raise SpecError."""
    text = check_identifier(name, "problem")
    if text in _MODULES:
        raise SpecError(
            f"problem name {text!r} would hide the Python module {text!r}; "
            f"choose another name, for example {text + '_mpc'!r}"
        )
    return text


def check_parameter_name(name: object) -> str:
    """Return ``name`` if it can be a keyword argument of the controller's call, else raise SpecError."""
    text = check_identifier(name, "parameter")
    if text in _CALL_ARGUMENTS:
        raise SpecError(
            f"parameter name {text!r} is reserved: the controller's call has an argument of that name; "
            f"rename the parameter, for example {text + '_value'!r}"
        )
    return text


def check_identifier(name: object, role: str) -> str:
    """Return ``name`` if it is an identifier free to use in Python, C and CUDA, else raise SpecError."""
    if not isinstance(name, str):
        raise SpecError(f"{role} name {name!r} is {type(name).__name__}; expected a string")
    problem = _objection(name)
    if problem is not None:
        raise SpecError(f"{role} name {name!r} {problem}; rename it")
    return name


def _objection(name: str) -> str | None:
    if not name.isascii():
        return "has non-ASCII characters, which C compilers treat differently; write it in ASCII"
    if not name.isidentifier():
        return "is not an identifier; expected letters, digits and underscores, not starting with a digit"
    if keyword.iskeyword(name):
        return "is a Python keyword"
    if name in _C_KEYWORDS:
        return "is a C or C++ keyword"
    if name in _C_IDENTIFIERS:
        return "is a standard C identifier and would clash in the generated code"
    if name.startswith("_") or name.endswith("__"):
        return "starts with an underscore or ends with two, which C reserves"
    if name.lower().startswith("mpcgen"):
        return "starts with 'mpcgen', which generated code uses for its own names"
    return None


def split_names(names: object, role: str) -> list[str]:
    """Split ``"x v omega"`` (spaces or commas) or a sequence of strings into names; not empty."""
    if isinstance(names, str):
        parts = names.replace(",", " ").split()
    elif isinstance(names, list | tuple):
        parts = list(names)
    else:
        raise SpecError(f"{role} names {names!r}: expected a string such as 'x v omega' or a list of strings")
    if not parts:
        raise SpecError(f"no {role} names given: expected a string such as 'x v omega'")
    return parts


def near_name(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'mass'?"`` for a close match among ``known``, else an empty string."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


class NameTable:
    """The names in use, each with what it names. A vector takes its own name and those of its entries."""

    def __init__(self) -> None:
        self._taken: dict[str, str] = {}

    def claim(self, names: Iterable[tuple[str, str]]) -> None:
        """Register (name, description) pairs, all or none; SpecError where one is in use already."""
        fresh: dict[str, str] = {}
        for name, description in names:
            owner = self._taken.get(name) or fresh.get(name)
            if owner is not None:
                raise SpecError(
                    f"the name {name!r} ({description}) is used twice: it is already {owner}; rename one"
                )
            fresh[name] = description
        self._taken.update(fresh)
