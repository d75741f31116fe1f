from __future__ import annotations

from acestep.settings.command_line import parser


def run() -> None:
    """The console script `acestep-api`."""
    parser().parse_args()  # ends here for --help and for wrong flags, before seconds of imports
    from acestep import api_server

    api_server.run()


if __name__ == "__main__":
    run()
