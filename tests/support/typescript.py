"""The snapshot's types for the browser, made from the Python ones; `python -m tests.support.typescript` writes them."""

from __future__ import annotations

from pathlib import Path

import msgspec.inspect as look

from modal_magic.view.picture import MIME
from modal_magic.view.snapshot import Snapshot

PATH = Path(__file__).resolve().parents[2] / "labextension" / "src" / "protocol.ts"
PLAIN = {
    look.StrType: "string",
    look.IntType: "number",
    look.FloatType: "number",
    look.BoolType: "boolean",
    look.NoneType: "null",
}


def told(kind: look.Type, found: dict[str, look.StructType]) -> str:
    """A type in TypeScript; the structs that it is made of are added to `found`."""
    match kind:
        case look.StructType():
            found.setdefault(kind.cls.__name__, kind)
            return kind.cls.__name__
        case look.VarTupleType():
            inner = told(kind.item_type, found)
            return f"{inner}[]"
        case look.UnionType():
            return " | ".join(told(part, found) for part in kind.types)
    return PLAIN[type(kind)]


def interfaces() -> str:
    """The text of protocol.ts."""
    found: dict[str, look.StructType] = {}
    told(look.type_info(Snapshot), found)
    made: dict[str, str] = {}
    while missing := [name for name in found if name not in made]:
        kind = found[missing[0]]
        fields = "".join(f"  {field.encode_name}: {told(field.type, found)};\n" for field in kind.fields)
        summary = (kind.cls.__doc__ or "").splitlines()[0]
        made[missing[0]] = f"/** {summary} */\nexport interface {missing[0]} {{\n{fields}}}\n"
    head = "// Made from modal_magic/view/snapshot.py by `python -m tests.support.typescript`; do not edit.\n"
    return "\n".join([head, f"export const MIME = '{MIME}';\n", *made.values()])


if __name__ == "__main__":
    PATH.write_text(interfaces(), encoding="utf-8")
