"""`training shelf …`: the documents that ground what a text teacher writes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from realm.cli.common import Json, Refused, say, table
from realm.settings import RealmHome

shelf_app = typer.Typer(no_args_is_help=True, help="The knowledge shelf: documents that ground a text teacher.")


@shelf_app.command("list")
def shelf_list(as_json: Json = False) -> None:
    """The folder, its documents, and which of them cannot be read."""
    from dataclasses import asdict

    from realm.vault.shelf import folder, open_shelf

    home = RealmHome()
    documents = open_shelf(home).documents
    rows = [[d.name, f"{d.bytes:,}", d.chunks, d.problem or ""] for d in documents]
    text = f"Shelf: {folder(home)}   (drop .md or .txt documents here)\n"
    text += table(rows, ["document", "bytes", "chunks", "not read because"]) if rows else "It is empty."
    say({"folder": str(folder(home)), "documents": [asdict(d) for d in documents]}, as_json, text)


@shelf_app.command("search")
def shelf_search(
    query: str, count: Annotated[int, typer.Option("--count", "-n", min=1, max=50)] = 3, as_json: Json = False
) -> None:
    """The passages that a teacher would be given with this question."""
    from realm.vault.shelf import open_shelf

    shelf = open_shelf(RealmHome())
    found = shelf.search(query, count)
    text = "\n\n".join(f"{p.place}  {p.heading}  (BM25 {p.score:.2f})\n{p.text}" for p in found)
    none = "no passage has a word of this question" if shelf.chunks else "the shelf is empty: `training shelf add FILE`"
    say([passage.to_dict() for passage in found], as_json, text or none)


@shelf_app.command("add")
def shelf_add(files: Annotated[list[Path], typer.Argument(help=".md or .txt documents")]) -> None:
    """Copy documents onto the shelf."""
    from realm.vault.shelf import ShelfError, add

    home = RealmHome()
    for file in files:
        try:
            print(f"{file} -> {add(home, file)}")
        except (ShelfError, OSError) as error:
            raise Refused(str(error)) from error


@shelf_app.command("remove")
def shelf_remove(name: Annotated[str, typer.Argument(help="as `shelf list` names it")]) -> None:
    """Take a document off the shelf; its file is deleted."""
    from realm.vault.shelf import ShelfError, remove

    try:
        remove(RealmHome(), name)
    except (ShelfError, OSError) as error:
        raise Refused(str(error)) from error
    print(f"{name} is off the shelf")
