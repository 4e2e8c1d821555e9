"""The subcommands of `palyno`, one file each; `palyno.app.cli` loads the one that is asked for."""
