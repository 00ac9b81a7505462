"""The commands of `./lab`."""

import os
import shlex
import shutil
import sys
from typing import Annotated

import typer

from tests.lab import cache, runs
from tests.lab.console import LabError, progress
from tests.lab.lab import Lab, running
from tests.lab.network import ONE_AT_A_TIME

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command()
def up() -> None:
    """Boot jump01, jump02, db01 and salt, and leave them running."""
    lab = Lab()
    lab.up()
    lab.keep()
    for host in lab.hosts.values():
        print(f"{host.name:8} Debian {host.release}  {host.address}")
    print(f"./lab shell HOST · ./lab down {lab.network.name}")


@app.command()
def down(
    name: Annotated[
        str, typer.Argument(help="one lab, as `up` named it; all of them without")
    ] = "",
) -> None:
    """End the labs that `up` left running, and remove what killed ones left behind."""
    for gone in runs.sweep([name] if name else runs.kept()):
        progress(f"{gone} is gone")


@app.command(context_settings={**PASS_ON, "allow_interspersed_args": False})
def shell(
    context: typer.Context,
    host: Annotated[str, typer.Argument(help="jump01, jump02, db01 or salt")],
) -> None:
    """Be root on a host; or run a command there."""
    hosts = running().hosts
    if host not in hosts:
        raise LabError(f"there is no host {host}: {', '.join(hosts)}")
    line = shlex.join(context.args) if len(context.args) > 1 else "".join(context.args)
    argv = hosts[host].argv(line or ["env", f"TERM={os.environ.get('TERM', 'dumb')}", "bash", "-l"])
    os.execvp(argv[0], argv)


@app.command()
def demo() -> None:
    """Show jump hosts that ask for key and code; exit status 1 if anything does not hold."""
    from tests.lab import demo as shown

    raise typer.Exit(not shown.run())


@app.command(context_settings=PASS_ON)
def test(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="the long tests too")] = False,
) -> None:
    """Run the tests; further arguments go to pytest."""
    from tests.lab.suite import Suite

    raise typer.Exit(not Suite(context.args, everything).run())


@app.command()
def bench() -> None:
    """Measure what the README's figures say."""
    raise LabError("there is no benchmark yet")


@app.command()
def clean() -> None:
    """Leave no trace but Debian's packages: `down`, and the cache too."""
    down("")
    with cache.locked(ONE_AT_A_TIME):
        at_work = [run.name for run in runs.folder().glob("mfa*")]
        if at_work:
            raise LabError(f"another process works with {', '.join(at_work)}: end that first")
        shutil.rmtree(cache.folder(), ignore_errors=True)
        ONE_AT_A_TIME.unlink()


if __name__ == "__main__":
    try:
        app(prog_name="./lab")
    except LabError as error:
        sys.exit(f"lab: {error}")
