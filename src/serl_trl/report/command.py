"""The command `serl-trl report`."""

from ..cli import COMMANDS, command_parser, one_sentence


def run(arguments: list[str] | None = None, prog: str | None = None) -> None:
    """Parse the arguments (`sys.argv` by default), write the page and say where it is."""
    parser = command_parser(prog=prog, usage="%(prog)s RUN [--compare OTHER]", description=COMMANDS["report"][1])
    parser.add_argument("run", metavar="RUN", help="The output_dir of a run, finished or not, or of its iterations.")
    parser.add_argument("--compare", metavar="OTHER", help="Another run, to show beside it.")
    args = parser.parse_args(arguments)
    with one_sentence():
        from .page import write_report  # it loads matplotlib

        print(write_report(args.run, args.compare))
