"""`table`: what a table holds, fewer and larger parts, other formats."""

from pathlib import Path
from typing import Annotated

import typer

from sbi_circuits.errors import TableError

app = typer.Typer(no_args_is_help=True, help="Describe, compact and export tables.")

Source = Annotated[Path, typer.Argument(help="Folder of a campaign, or an exported .parquet file.")]


@app.command()
def info(table: Source) -> None:
    """Say what a table holds and how it is stored."""
    from sbi_circuits.table_info import describe, open_table

    print("\n".join(describe(open_table(table))))


@app.command()
def compact(
    table: Annotated[Path, typer.Argument(help="Folder of a campaign; it may be running.")],
    size: Annotated[float, typer.Option(help="Content of a merged part, megabytes.")] = 64.0,
) -> None:
    """Merge small parts, safe to interrupt at any moment: rows and digest stay the same."""
    from sbi_circuits.table import Table
    from sbi_circuits.table_compact import compact_table

    if table.is_file():
        raise TableError(f"{table} is one file already; tables in folders have parts")
    print(f"compacted {table}: {compact_table(Table.open(table), size)}")


@app.command()
def export(
    table: Source,
    out: Annotated[Path, typer.Option("--out", help="File to write: .nc (NetCDF) or .parquet.")],
    features: Annotated[str | None, typer.Option(help="Features or families, comma-separated; .nc only.")] = None,
) -> None:
    """Write a table as one file."""
    from sbi_circuits.table_export import export as write
    from sbi_circuits.table_info import open_table

    chosen = None if features is None else [name.strip() for name in features.split(",")]
    print(f"wrote {write(open_table(table), out, chosen)}")
