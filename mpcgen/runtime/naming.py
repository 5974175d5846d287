"""What a name is called in C, and in the names of files: itself, unless C would take it for something else."""

import re
import unicodedata


def ascii_name(name: str) -> str:
    """Return an identifier in ASCII: accents go, and letters of other alphabets are spelt, ``θ`` as ``theta``."""
    return re.sub(r"\W+", "_", "".join(map(_spelt, name)), flags=re.ASCII)


def _spelt(character: str) -> str:
    if character.isascii():
        return character
    plain = "".join(c for c in unicodedata.normalize("NFKD", character) if c.isascii())
    if plain:
        return plain
    if unicodedata.combining(character):
        return ""
    word = unicodedata.name(character, "").rpartition(" ")[2].lower()
    if not (word.isascii() and word.isalnum()):
        return f"u{ord(character):x}"
    return word.capitalize() if character.isupper() else word


def c_stem(problem: str) -> str:
    """Return what the C functions and files of a problem begin with.

    A further underscore keeps them apart from the headers, whose names begin with ``mpcgen``, and the name in capitals
    from the headers' include guards, such as ``MPCGEN_LANE_H``.
    """
    stem = ascii_name(problem)
    return f"{stem}_" if stem.lower().startswith("mpcgen") or stem.isupper() else stem
