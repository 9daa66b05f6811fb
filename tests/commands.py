"""The command line, called in this process."""

from typer.testing import CliRunner, Result

from sbi_circuits.cli import app

# A campaign of the toy circuit; `--out` and `--n` are to follow.
SIMULATE = ("simulate", "tiny", "--duration", "5", "--engine", "tiny", "--features", "isi", "--spikes", "15")


def call(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == status, (result.output, result.exception)
    return result


def error(*arguments: object) -> str:
    """The only line of standard error."""
    result = call(*arguments, status=2)
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")
