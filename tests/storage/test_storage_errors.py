import re

from storage import errors


def _tree(kind: type, depth: int = 0) -> list[tuple[int, str]]:
    return [(depth, kind.__name__)] + [line for child in kind.__subclasses__() for line in _tree(child, depth + 1)]


def test_the_printed_tree_is_the_tree_of_the_classes():
    lines = (re.match(r"^([│├└─ ]*)(\w+Error)\b", line) for line in (errors.__doc__ or "").splitlines())
    printed = [(len(found[1]) // 4, found[2]) for found in lines if found]
    assert printed == _tree(errors.StorageError)


def test_every_error_is_public_in_the_package():
    import storage

    names = {name for _, name in _tree(errors.StorageError)}
    assert names <= set(storage.__all__)
