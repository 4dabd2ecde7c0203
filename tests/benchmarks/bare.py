"""A bare typer program: what `bsexp --help` is compared with. It has the settings that make typer start fastest."""

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def train(lr: float = 0.1, epochs: int = 10) -> None:
    """Train something."""


@app.command()
def test(file: str) -> None:
    """Test it."""


if __name__ == "__main__":
    app()
