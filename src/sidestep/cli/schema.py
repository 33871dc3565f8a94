"""``sidestep schema``."""

from __future__ import annotations

import click


@click.command(short_help="Print the JSON Schema of the documents, for editors.")
def schema() -> None:
    """Print the JSON Schema of the documents, for editors.

    \b
    Examples:
      sidestep schema > sidestep.schema.json
      # first line of a document, for editors that speak yaml-language-server:
      # yaml-language-server: $schema=sidestep.schema.json
    """
    import orjson

    from sidestep.spec import schema as of_documents

    click.echo(orjson.dumps(of_documents(), option=orjson.OPT_INDENT_2).decode())
